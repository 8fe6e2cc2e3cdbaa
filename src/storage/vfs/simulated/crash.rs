//! What a power cut leaves of a simulated disk: every choice a real one might make.

use super::SimDisk;
use super::content::Bytes;
use super::disk::{DirChange, Disk, Entries, Inode, ROOT};
use imbl::OrdMap;
use std::path::PathBuf;

/// One thing that was not synced when the power went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unsynced {
    /// A change of directory entries.
    Entry {
        /// The name that was made, changed or removed.
        name: PathBuf,
    },
    /// A file's length.
    Length {
        /// Which file.
        inode: u64,
    },
    /// 512 bytes of a file.
    Sector {
        /// Which file.
        inode: u64,
        /// Which sector of it, from 0.
        number: u64,
    },
}

/// How a power cut decides about what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survival {
    /// Everything unsynced is lost.
    Nothing,
    /// Everything unsynced is kept, as after `kill -9`.
    Everything,
    /// Bit `i` says whether the `i`-th unsynced thing is kept (see [`SimDisk::unsynced`]); from the 64th on, lost.
    Mask(u64),
    /// Chance decides about each, also between the versions that a sector had on the way. The same seed, the same cut.
    Seed(u64),
}

/// Chooses one of `0..=newest`, where 0 means lost.
type Choose<'a> = dyn FnMut(Unsynced, usize) -> usize + 'a;

impl SimDisk {
    /// Everything that a power cut now might keep or lose, in the order in which [`Survival::Mask`] counts.
    pub fn unsynced(&self) -> Vec<Unsynced> {
        let mut all = Vec::new();
        survivors(&self.disk(), &mut |item, _| {
            all.push(item);
            1
        });
        all
    }

    /// The disk as the next start finds it after a power cut now. This disk stays as it is.
    #[must_use]
    pub fn crash_image(&self, survival: Survival) -> Self {
        let disk = self.disk();
        match survival {
            Survival::Nothing => Self::from_disk(survivors(&disk, &mut |_, _| 0)),
            Survival::Everything => Self::from_disk(survivors(&disk, &mut |_, newest| newest)),
            Survival::Mask(mask) => {
                let mut bit = 0;
                Self::from_disk(survivors(&disk, &mut |_, newest| {
                    bit += 1;
                    if bit <= 64 && mask & (1 << (bit - 1)) != 0 { newest } else { 0 }
                }))
            }
            Survival::Seed(seed) => {
                let mut state = seed;
                let mut unlucky = 1 + next_random(&mut state) % 7;
                if unlucky == 7 {
                    unlucky = 64;
                }
                Self::from_disk(survivors(&disk, &mut |_, newest| {
                    if next_random(&mut state).is_multiple_of(unlucky) {
                        0
                    } else {
                        1 + usize::try_from(next_random(&mut state) % newest as u64).unwrap_or(0)
                    }
                }))
            }
        }
    }
}

/// SplitMix64: small, and the same everywhere.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn survivors(disk: &Disk, choose: &mut Choose<'_>) -> Disk {
    let mut inodes = disk.inodes.clone();
    for change in &disk.pending {
        let name = change.name().clone();
        if choose(Unsynced::Entry { name }, 1) > 0 {
            change.apply(&mut inodes, Entries::Durable);
        }
    }
    let mut links = OrdMap::new();
    count_links(&inodes, ROOT, &mut links);
    let mut kept = OrdMap::new();
    for (number, links) in links {
        let Some(inode) = inodes.get(&number) else { continue };
        kept.insert(number, survivor(number, inode, links, choose));
    }
    Disk { inodes: kept, next_inode: disk.next_inode, now_ns: disk.now_ns, quota: disk.quota, ..Disk::new() }
}

fn count_links(inodes: &OrdMap<u64, Inode>, directory: u64, links: &mut OrdMap<u64, u64>) {
    *links.entry(directory).or_insert(0) += 1;
    let Some(Some(entries)) = inodes.get(&directory).map(|inode| &inode.directory) else { return };
    for (_, child) in &entries.durable {
        if inodes.get(child).is_some_and(|inode| inode.directory.is_some()) {
            count_links(inodes, *child, links);
        } else {
            *links.entry(*child).or_insert(0) += 1;
        }
    }
}

fn survivor(number: u64, inode: &Inode, links: u64, choose: &mut Choose<'_>) -> Inode {
    let mut after = inode.clone();
    after.links = links;
    after.handles = 0;
    if let Some(entries) = &mut after.directory {
        entries.current = entries.durable.clone();
        return after;
    }
    let content = &inode.content;
    let mut bytes: Bytes = content.durable.clone();
    let mut changed = false;
    let mut len = content.durable.len;
    if content.current.len != len || !content.lengths.is_empty() {
        let chosen = choose(Unsynced::Length { inode: number }, content.lengths.len() + 1);
        if chosen > 0 {
            len = content.lengths.get(chosen - 1).copied().unwrap_or(content.current.len);
            changed = true;
        }
    }
    bytes.set_len(len.max(bytes.len));
    for (sector, versions) in &content.dirty {
        let chosen = choose(Unsynced::Sector { inode: number, number: *sector }, versions.len() + 1);
        if chosen > 0 {
            let newest = content.current.sector(*sector);
            bytes.put_sector(*sector, versions.get(chosen - 1).unwrap_or(&newest));
            changed = true;
        }
    }
    bytes.set_len(len);
    after.mtime_ns = if changed { inode.mtime_ns } else { inode.durable_mtime_ns };
    after.durable_mtime_ns = after.mtime_ns;
    after.content.current = bytes.clone();
    after.content.durable = bytes;
    after.content.forget_dirt();
    after
}

impl DirChange {
    fn name(&self) -> &PathBuf {
        match self {
            Self::Add { name, .. } | Self::Remove { name, .. } => name,
            Self::Rename { to, .. } => to,
        }
    }
}
