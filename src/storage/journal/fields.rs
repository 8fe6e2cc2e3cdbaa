//! Little-endian fields, read with bounds and written by hand.

use crate::session::SessionName;

/// Reads fields one after the other; `None` when the bytes run out or make no sense.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.bytes(1).map(|bytes| bytes[0])
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.bytes(2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.bytes(4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.bytes(8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes)
    }

    pub(super) fn i64(&mut self) -> Option<i64> {
        self.bytes(8).and_then(|bytes| bytes.try_into().ok()).map(i64::from_le_bytes)
    }

    pub(super) fn u128(&mut self) -> Option<u128> {
        self.bytes(16).and_then(|bytes| bytes.try_into().ok()).map(u128::from_le_bytes)
    }

    pub(super) fn i128(&mut self) -> Option<i128> {
        self.bytes(16).and_then(|bytes| bytes.try_into().ok()).map(i128::from_le_bytes)
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

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

pub(super) fn put_session(out: &mut Vec<u8>, session: &SessionName) {
    let name = session.as_str();
    out.push(u8::try_from(name.len()).expect("session names have at most 64 bytes"));
    out.extend_from_slice(name.as_bytes());
}

pub(super) fn put_option<T>(out: &mut Vec<u8>, value: Option<&T>, put: impl FnOnce(&mut Vec<u8>, &T)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}
