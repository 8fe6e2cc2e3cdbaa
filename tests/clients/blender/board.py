"""Tasks and chat as the fork of the add-on has them: everything rides in the user's own metadata."""

import json
import time

KEEPER = "~session"


class Board:
    """One user's task list and chat, with the fork's habits, the bad ones included."""

    def __init__(self, peer):
        self.peer, self.tasks, self.chat = peer, {}, []

    # -- tasks

    def add(self, title, **fields):
        key = str(time.time())
        self.tasks[key] = {"id": key, "title": title, "description": "", "assigned_to": "", "status": "todo",
                           "created_by": self.peer.name, "created_at": time.time(), "object_name": "", **fields}  # fmt: skip
        self.publish()
        return key

    def change(self, key, **fields):
        self.tasks[key].update(fields)
        self.publish()

    def remove(self, key):
        del self.tasks[key]
        self.publish()

    def publish(self):
        """Always all tasks that this user knows."""
        self.peer.metadata(tasks=json.dumps(self.tasks))

    # -- chat

    def say(self, text, **fields):
        now = time.time()
        self.chat.append({"id": str(now), "username": self.peer.name, "message": text, "msg_type": "text", "metadata": {},
                          "timestamp": now, **fields})  # fmt: skip
        self.peer.metadata(chat_messages=json.dumps(self.chat[-10:]))

    # -- what the panels do

    def load(self):
        """Takes over what others have published: only tasks and messages whose ids are new."""
        for user in self.peer.users().values():
            for key, task in json.loads(user["metadata"].get("tasks", "{}")).items():
                self.tasks.setdefault(key, task)
            known = {message["id"] for message in self.chat}
            self.chat += [message for message in json.loads(user["metadata"].get("chat_messages", "[]")) if message["id"] not in known]
        self.chat.sort(key=lambda message: message["timestamp"])
        return self

    def move_view(self, record=None):
        """Sends the whole local copy of the own record again, however old it is; returns it."""
        record = record or self.record()
        self.peer.metadata(**{**record, "view_corners": [[time.time(), 0.0, 1.0]] * 7, "view_matrix": [[1.0] * 4] * 4})
        return record

    def record(self):
        return self.peer.users()[self.peer.name]["metadata"]


def kept(peer):
    """The tasks and the messages that the server holds out to this client: (id -> task, list of messages)."""
    metadata = peer.users().get(KEEPER, {"metadata": {}})["metadata"]
    return json.loads(metadata.get("tasks", "{}")), json.loads(metadata.get("chat_messages", "[]"))


def until_kept(peer, condition, what, timeout=10):
    """Waits until the condition holds for tasks and messages; returns them."""
    peer.until(lambda _: condition(*kept(peer)), f"seeing {what}", timeout)
    return kept(peer)


def titles(tasks):
    return sorted(task["title"] for task in tasks.values())


def texts(chat):
    return [message["message"] for message in chat]
