//! Pickles against the real thing: files of the old server and the add-on, its deltas, malicious pickles,
//! and CPython's opinion.

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod deepdiff;
#[cfg(test)]
mod deltas;
#[cfg(test)]
mod differential;
#[cfg(test)]
mod files;
#[cfg(test)]
mod malicious;
#[cfg(test)]
mod mutants;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod typed;
