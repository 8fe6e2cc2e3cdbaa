//! Threads whose work can wait: saving a large session must not take the processor from those who edit it.

use rustix::process::setpriority_process;

/// How much less of a busy processor a background thread gets: about a tenth of another one's share.
const NICE: i32 = 10;

/// Lets every other thread go first from now on, where the system allows it.
pub fn give_way() {
    // On Linux "this process" means the calling thread here (setpriority(2), "C library/kernel differences"). A refusal
    // costs nothing but the courtesy.
    _ = setpriority_process(None, NICE);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::getpriority_process;

    #[test]
    fn only_the_thread_that_gives_way_gets_less() {
        let before = getpriority_process(None).unwrap();
        let inside = std::thread::spawn(|| {
            give_way();
            getpriority_process(None).unwrap()
        });
        assert!(inside.join().unwrap() >= NICE, "it gives way");
        assert_eq!(getpriority_process(None).unwrap(), before, "nobody else does");
    }
}
