"""The add-on's own library, unmodified and in each of its versions, against the Blender door."""

import sys

from harness import HERE, main

sys.path.insert(0, str(HERE / "blender"))

import flows
import hostility
import manners
import replay
import restarts
import sessions
import talk
from crew import VERSIONS, Crew, Hotset, PythonServer, for_each


def the_clients_are_right_about_the_python_servers():
    """The same flows against the servers that the library brings along: whoever fails here is the test."""

    def one(version):
        with PythonServer(version) as server, Crew(server.folder) as crew:
            flows.probe(server, crew.hire(version), VERSIONS[version])
            flows.everything(server, crew, [version] * 3)

    for_each(VERSIONS, one)


def each_version_alone_does_everything():
    def one(version):
        with Hotset() as daemon, Crew(daemon.folder) as crew:
            daemon.start()
            flows.probe(daemon, crew.hire(version))
            flows.everything(daemon, crew, [version] * 3)

    for_each(VERSIONS, one)


def a_session_of_one_version_is_joined_by_all_others():
    def one(first):
        with Hotset() as daemon, Crew(daemon.folder) as crew:
            daemon.start()
            flows.everything(daemon, crew, [first, *(version for version in VERSIONS if version != first)])

    for_each(VERSIONS, one)


SCENARIOS = [
    the_clients_are_right_about_the_python_servers,
    each_version_alone_does_everything,
    a_session_of_one_version_is_joined_by_all_others,
    *manners.SCENARIOS,
    *replay.SCENARIOS,
    *talk.SCENARIOS,
    *restarts.SCENARIOS,
    *sessions.SCENARIOS,
    *hostility.SCENARIOS,
]

if __name__ == "__main__":
    main("blender", SCENARIOS)
