//! The only place where chance enters.

/// 128 random bits from the operating system.
///
/// # Panics
/// If the operating system has no randomness to give, which no supported one does after boot.
pub fn u128() -> u128 {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    u128::from_le_bytes(bytes)
}
