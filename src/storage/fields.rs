//! Little-endian fields of stored blocks: read with bounds and without ever panicking, and written by hand.

use crate::session::SessionName;

/// No stored number that counts (segment, epoch, batch, `seq`) ever comes near this: whatever says more is not ours, and
/// there is always a next one.
pub(super) const COUNT_MAX: u64 = 1 << 63;

/// What is left of a block. Everything that it gives is `None` when the bytes run out or make no sense.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Starts at the beginning of `bytes`.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `len` bytes.
    pub(super) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    pub(super) fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_le_bytes)
    }

    pub(super) fn i128(&mut self) -> Option<i128> {
        self.array().map(i128::from_le_bytes)
    }

    /// A text with a 2-byte length before it.
    pub(super) fn text(&mut self) -> Option<String> {
        let len = self.u16()?;
        std::str::from_utf8(self.bytes(usize::from(len))?).ok().map(str::to_owned)
    }

    /// One byte of length, then the name.
    pub(super) fn session(&mut self) -> Option<SessionName> {
        let len = self.u8()?;
        let name = std::str::from_utf8(self.bytes(usize::from(len))?).ok()?;
        SessionName::new(name).ok()
    }

    /// One byte that says whether a value follows; then the value is read into `slot`.
    pub(super) fn option<T>(&mut self, slot: &mut Option<T>, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<()> {
        match self.u8()? {
            0 => Some(()),
            1 => read(self).map(|value| *slot = Some(value)),
            _other => None,
        }
    }

    /// Everything that has not been read yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

/// Appends a text with a 2-byte length before it, cut at a character to at most `max` bytes.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str, max: u16) {
    let cut = text.floor_char_boundary(usize::from(max).min(text.len()));
    let len = u16::try_from(cut).expect("cut to a u16");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&text.as_bytes()[..cut]);
}

/// Appends one byte of length and the name.
pub(super) fn put_session(out: &mut Vec<u8>, session: &SessionName) {
    let name = session.as_str();
    out.push(u8::try_from(name.len()).expect("session names have at most 64 bytes"));
    out.extend_from_slice(name.as_bytes());
}

/// Appends one byte that says whether there is a value, and the value.
pub(super) fn put_option<T>(out: &mut Vec<u8>, value: Option<&T>, put: impl FnOnce(&mut Vec<u8>, &T)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}
