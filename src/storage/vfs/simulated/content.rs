//! The bytes of one simulated file: what programs see, what is on the platter, and what lies between the two.

use imbl::OrdMap;
use std::sync::Arc;

/// The unit that a disk writes whole or not at all.
pub(super) const SECTOR: usize = 512;
const PAGE: usize = 4096;
const SECTORS_PER_PAGE: u64 = (PAGE / SECTOR) as u64;

fn index(number: u64) -> usize {
    usize::try_from(number).expect("simulated files fit in memory")
}

pub(super) type Sector = Arc<[u8; SECTOR]>;

/// A sparse run of bytes; pages that are absent hold zeros.
#[derive(Clone, Default)]
pub(super) struct Bytes {
    pub(super) len: u64,
    pages: OrdMap<u64, Arc<[u8; PAGE]>>,
}

impl Bytes {
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let wanted = index(self.len.saturating_sub(offset).min(buffer.len() as u64));
        let mut done = 0;
        while done < wanted {
            let at = offset + done as u64;
            let within = index(at % PAGE as u64);
            let some = (PAGE - within).min(wanted - done);
            match self.pages.get(&(at / PAGE as u64)) {
                Some(page) => buffer[done..done + some].copy_from_slice(&page[within..within + some]),
                None => buffer[done..done + some].fill(0),
            }
            done += some;
        }
        wanted
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let number = at / PAGE as u64;
            let within = index(at % PAGE as u64);
            let some = (PAGE - within).min(bytes.len() - done);
            let new = &bytes[done..done + some];
            let zeros = new.iter().all(|byte| *byte == 0);
            if zeros && some == PAGE {
                self.pages.remove(&number);
            } else if !zeros || self.pages.contains_key(&number) {
                let page = self.pages.entry(number).or_insert_with(|| Arc::new([0; PAGE]));
                Arc::make_mut(page)[within..within + some].copy_from_slice(new);
            }
            done += some;
        }
        self.len = self.len.max(offset + bytes.len() as u64);
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            let (kept, _cut) = self.pages.split(&len.div_ceil(PAGE as u64));
            self.pages = kept;
            let within = index(len % PAGE as u64);
            if within > 0
                && let Some(page) = self.pages.get_mut(&(len / PAGE as u64))
            {
                Arc::make_mut(page)[within..].fill(0);
            }
        }
        self.len = len;
    }

    pub(super) fn sector(&self, number: u64) -> Sector {
        let mut bytes = [0; SECTOR];
        if let Some(page) = self.pages.get(&(number / SECTORS_PER_PAGE)) {
            let within = index(number % SECTORS_PER_PAGE) * SECTOR;
            bytes.copy_from_slice(&page[within..within + SECTOR]);
        }
        Arc::new(bytes)
    }

    /// Puts a sector in place without changing the length.
    pub(super) fn put_sector(&mut self, number: u64, sector: &[u8; SECTOR]) {
        let len = self.len;
        self.write(number * SECTOR as u64, sector);
        self.len = len;
    }

    pub(super) fn is_zero_in(&self, page: u64) -> bool {
        !self.pages.contains_key(&page)
    }
}

/// A file's bytes in memory and on the platter.
#[derive(Clone, Default)]
pub(super) struct Content {
    /// What programs read.
    pub(super) current: Bytes,
    /// What a power cut leaves, whatever else it takes.
    pub(super) durable: Bytes,
    /// Sectors written since the last sync, with the versions they had on the way (without the newest).
    pub(super) dirty: OrdMap<u64, Vec<Sector>>,
    /// Lengths since the last sync, without the newest.
    pub(super) lengths: Vec<u64>,
    /// Bytes that the file takes up on the disk.
    pub(super) allocated: u64,
}

impl Content {
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let first = offset / SECTOR as u64;
        let last = (offset + bytes.len() as u64 - 1) / SECTOR as u64;
        for number in first..=last {
            let before = self.current.sector(number);
            match self.dirty.get_mut(&number) {
                Some(versions) => versions.push(before),
                None => drop(self.dirty.insert(number, Vec::new())),
            }
        }
        let end = offset + bytes.len() as u64;
        self.note_length(self.current.len.max(end));
        self.extend_over_stale(end);
        self.current.write(offset, bytes);
        self.allocated = self.allocated.max(end.next_multiple_of(PAGE as u64));
    }

    pub(super) fn set_len(&mut self, len: u64) {
        self.note_length(len);
        self.extend_over_stale(len);
        if len < self.current.len {
            self.allocated = self.allocated.min(len.next_multiple_of(PAGE as u64));
        }
        self.current.set_len(len);
    }

    pub(super) fn sync(&mut self) {
        // Only what was written since the last sync: after a failed sync the two differ for good.
        for (number, _) in &self.dirty {
            let sector = self.current.sector(*number);
            self.durable.put_sector(*number, &sector);
        }
        self.durable.set_len(self.current.len);
        self.forget_dirt();
    }

    /// What ext4 does when a sync fails: the pages count as clean, and nothing will ever write them.
    pub(super) fn forget_dirt(&mut self) {
        self.dirty = OrdMap::new();
        self.lengths.clear();
    }

    fn note_length(&mut self, len: u64) {
        if len != self.current.len {
            self.lengths.push(self.current.len);
        }
    }

    /// Bytes that were cut off and never synced must read as zeros if the file grows again.
    fn extend_over_stale(&mut self, len: u64) {
        let stale_end = len.min(self.durable.len);
        if stale_end <= self.current.len {
            return;
        }
        let mut page = self.current.len / PAGE as u64;
        while page * (PAGE as u64) < stale_end {
            if !self.durable.is_zero_in(page) {
                let first = page * SECTORS_PER_PAGE;
                for number in first..first + SECTORS_PER_PAGE {
                    if number * SECTOR as u64 >= self.current.len {
                        self.dirty.entry(number).or_default();
                    }
                }
            }
            page += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &Bytes) -> Vec<u8> {
        let mut out = vec![9; index(bytes.len)];
        assert_eq!(bytes.read(0, &mut out), out.len());
        out
    }

    #[test]
    fn sparse_bytes_read_back_as_written() {
        let mut bytes = Bytes::default();
        bytes.write(4090, b"0123456789");
        bytes.write(0, &[7; 3]);
        assert_eq!(bytes.len, 4100);
        assert_eq!(&all(&bytes)[4088..], b"\0\x000123456789");
        bytes.set_len(4093);
        bytes.set_len(4098);
        assert_eq!(&all(&bytes)[4088..], b"\0\x00012\0\0\0\0\0");
    }

    #[test]
    fn a_failed_sync_loses_what_was_dirty_and_later_syncs_do_not_bring_it_back() {
        let mut content = Content::default();
        content.write(0, &[1; 512]);
        content.sync();
        content.write(0, &[2; 512]);
        content.forget_dirt();
        content.write(512, &[3; 512]);
        content.sync();
        assert_eq!(all(&content.current)[0], 2);
        let durable = all(&content.durable);
        assert_eq!((durable[0], durable[512]), (1, 3));
    }
}
