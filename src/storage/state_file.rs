//! `STATE`: two slots, written alternately, that witness the directory's lineage and newest epoch.
//!
//! It decides nothing alone: the journal has both as well. It is there so that a directory whose journal was lost is
//! never taken for a new one, and so that an epoch is never used twice.

use crate::storage::fields::Fields;
use crate::storage::vfs::{Open, Vfs};
use std::io;
use std::path::Path;

/// Its name in the data directory.
pub(crate) const STATE_FILE: &str = "STATE";
const MAGIC: [u8; 8] = *b"HSSTATE1";
const SLOT: u64 = 4096;
const SLOT_LEN: usize = 4096;

/// What a slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Witness {
    /// The data directory's identity.
    pub(crate) lineage: u128,
    /// The newest start that served.
    pub(crate) epoch: u64,
    /// Rises with every write; its parity is the slot.
    generation: u64,
}

impl Witness {
    fn encode(self) -> [u8; SLOT_LEN] {
        let mut slot = [0; SLOT_LEN];
        slot[..8].copy_from_slice(&MAGIC);
        slot[8..16].copy_from_slice(&self.generation.to_le_bytes());
        slot[16..32].copy_from_slice(&self.lineage.to_le_bytes());
        slot[32..40].copy_from_slice(&self.epoch.to_le_bytes());
        let crc = crc32c::crc32c(&slot[..SLOT_LEN - 4]);
        slot[SLOT_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        slot
    }

    fn decode(slot: &[u8]) -> Option<Self> {
        let (body, crc) = slot.split_at_checked(SLOT_LEN - 4)?;
        let intact = crc32c::crc32c(body).to_le_bytes() == crc; // durability: S8
        if !intact {
            return None;
        }
        let mut fields = Fields::new(body);
        if fields.bytes(8)? != MAGIC {
            return None;
        }
        let (generation, lineage, epoch) = (fields.u64()?, fields.u128()?, fields.u64()?);
        // There must always be a next one.
        (epoch.max(generation) < u64::MAX).then_some(Self { lineage, epoch, generation })
    }
}

/// What was found of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// There is none.
    Missing,
    /// There is one without a valid slot.
    Damaged,
    /// The newest valid slot.
    Valid(Witness),
}

impl Found {
    /// The witness, if there is one.
    pub(crate) fn witness(self) -> Option<Witness> {
        if let Self::Valid(witness) = self { Some(witness) } else { None }
    }
}

/// Reads the newest valid slot.
pub(crate) fn read(vfs: &dyn Vfs) -> io::Result<Found> {
    let file = match vfs.open(Path::new(STATE_FILE), Open::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Missing),
        Err(error) => return Err(error),
    };
    let mut newest: Option<Witness> = None;
    for index in 0..2 {
        let mut slot = [0; SLOT_LEN];
        // An unreadable sector costs one slot, not the start.
        if !matches!(file.read_at(index * SLOT, &mut slot), Ok(SLOT_LEN)) {
            continue;
        }
        if let Some(witness) = Witness::decode(&slot)
            && newest.is_none_or(|other| other.generation < witness.generation)
        {
            newest = Some(witness);
        }
    }
    Ok(newest.map_or(Found::Damaged, Found::Valid))
}

/// Writes lineage and epoch into the slot that does not hold `before`, durably.
pub(crate) fn write(vfs: &dyn Vfs, before: Found, lineage: u128, epoch: u64) -> io::Result<Witness> {
    let path = Path::new(STATE_FILE);
    let file = match before {
        Found::Missing => vfs.open(path, Open::CreateNew)?,
        Found::Damaged | Found::Valid(_) => vfs.open(path, Open::Write)?,
    };
    let generation = before.witness().map_or(1, |witness| witness.generation + 1);
    let witness = Witness { lineage, epoch, generation };
    file.write_at(generation % 2 * SLOT, &[&witness.encode()])?;
    if before.witness().is_none() {
        // Both slots exist from the beginning, so that a read of either is never short.
        file.write_at((generation + 1) % 2 * SLOT, &[&[0; SLOT_LEN]])?;
    }
    file.sync()?; // durability: S9
    vfs.sync_dir(Path::new(""))?; // durability: S10
    Ok(witness)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::vfs::{SimDisk, Survival, read_all};

    fn written(epochs: u64) -> (SimDisk, Found) {
        let disk = SimDisk::new();
        let mut found = Found::Missing;
        for epoch in 1..=epochs {
            found = Found::Valid(write(&disk, found, 77, epoch).unwrap());
        }
        (disk, found)
    }

    #[test]
    fn the_newest_epoch_is_witnessed_after_a_power_cut() {
        for epochs in 1..5 {
            let (disk, found) = written(epochs);
            assert_eq!(read(&disk.crash_image(Survival::Nothing)).unwrap(), found);
            assert_eq!(found.witness().map(|witness| (witness.lineage, witness.epoch)), Some((77, epochs)));
        }
    }

    #[test]
    fn a_flipped_bit_leaves_the_newest_or_the_one_before_and_nothing_else() {
        let (disk, found) = written(4);
        let bytes = read_all(&disk, Path::new(STATE_FILE), 8192).unwrap();
        for bit in (0..bytes.len() * 8).step_by(3).chain(0..48 * 8).chain(4096 * 8..4144 * 8) {
            disk.tamper(Path::new(STATE_FILE), bit as u64 / 8, &[bytes[bit / 8] ^ (1 << (bit % 8))]);
            let read = read(&disk).unwrap();
            let before = read.witness().is_some_and(|witness| (witness.lineage, witness.epoch) == (77, 3));
            assert!(read == found || before, "bit {bit}: {read:?}");
            disk.tamper(Path::new(STATE_FILE), 0, &bytes);
        }
    }

    #[test]
    fn a_file_without_a_valid_slot_is_damaged_and_can_be_written_again() {
        let (disk, _) = written(2);
        disk.tamper_len(Path::new(STATE_FILE), 10);
        assert_eq!(read(&disk).unwrap(), Found::Damaged);
        let witness = write(&disk, Found::Damaged, 5, 9).unwrap();
        assert_eq!(read(&disk).unwrap(), Found::Valid(witness));
    }
}
