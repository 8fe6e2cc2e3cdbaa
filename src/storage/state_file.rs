//! `STATE`: two slots, written alternately, that witness the directory's lineage and newest epoch.
//!
//! It decides nothing alone: the journal has both as well. It is there so that a directory whose journal was lost is
//! never taken for a new one, and so that an epoch is never used twice.

use crate::storage::snapshot::Fields;
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
        // durability: S9 (replace by `if false {`)
        if crc32c::crc32c(body).to_le_bytes() != crc {
            return None;
        }
        let mut fields = Fields::new(body);
        if fields.take(8)? != MAGIC {
            return None;
        }
        let (generation, lineage, epoch) = (fields.u64()?, fields.u128()?, fields.u64()?);
        Some(Self { lineage, epoch, generation })
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
    file.sync()?; // durability: S10
    vfs.sync_dir(Path::new(""))?; // durability: S11
    Ok(witness)
}
