//! The simulated disk must be able to lose everything that a real one can.

use super::*;
use crate::storage::vfs::read_all;
use std::collections::BTreeSet;

fn path(name: &str) -> &Path {
    Path::new(name)
}

fn read(disk: &SimDisk, name: &str) -> Option<Vec<u8>> {
    read_all(disk, path(name), 1 << 20).ok()
}

fn create(disk: &SimDisk, name: &str, bytes: &[u8]) -> Box<dyn VfsFile> {
    let file = disk.open(path(name), Open::CreateNew).unwrap();
    file.write_at(0, &[bytes]).unwrap();
    file
}

#[test]
fn a_file_needs_its_own_sync_and_that_of_its_directory() {
    let disk = SimDisk::new();
    let file = create(&disk, "a", b"content");
    assert_eq!(read(&disk.crash_image(Survival::Nothing), "a"), None);
    assert_eq!(read(&disk.crash_image(Survival::Everything), "a").unwrap(), b"content");
    file.sync().unwrap();
    assert_eq!(read(&disk.crash_image(Survival::Nothing), "a"), None);
    disk.sync_dir(path("")).unwrap();
    assert_eq!(read(&disk.crash_image(Survival::Nothing), "a").unwrap(), b"content");
}

#[test]
fn a_rename_without_a_directory_sync_may_come_back() {
    let disk = SimDisk::new();
    create(&disk, "old", b"old").sync().unwrap();
    create(&disk, "new", b"new").sync().unwrap();
    disk.sync_dir(path("")).unwrap();
    disk.rename(path("new"), path("old")).unwrap();
    assert_eq!(read(&disk.crash_image(Survival::Nothing), "old").unwrap(), b"old");
    assert_eq!(read(&disk.crash_image(Survival::Mask(1)), "old").unwrap(), b"new");
    assert_eq!(read(&disk.crash_image(Survival::Mask(1)), "new"), None);
    disk.sync_dir(path("")).unwrap();
    assert_eq!(read(&disk.crash_image(Survival::Nothing), "old").unwrap(), b"new");
}

#[test]
fn a_rename_between_directories_needs_both_syncs() {
    let disk = SimDisk::new();
    disk.create_dir(path("d")).unwrap();
    create(&disk, "a", b"x").sync().unwrap();
    disk.sync_dir(path("")).unwrap();
    disk.rename(path("a"), path("d/b")).unwrap();
    disk.sync_dir(path("")).unwrap();
    assert_eq!(read(&disk.crash_image(Survival::Nothing), "a").unwrap(), b"x");
    disk.sync_dir(path("d")).unwrap();
    let after = disk.crash_image(Survival::Nothing);
    assert_eq!((read(&after, "a").unwrap(), read(&after, "d/b").unwrap()), (b"x".to_vec(), b"x".to_vec()));
    assert_eq!(after.stat(path("d/b")).unwrap().links, 2);
    disk.sync_dir(path("")).unwrap();
    assert_eq!(read(&disk.crash_image(Survival::Nothing), "a"), None);
}

#[test]
fn every_subset_of_unsynced_sectors_can_survive() {
    let disk = SimDisk::new();
    let file = create(&disk, "a", &[1; 1536]);
    file.sync().unwrap();
    disk.sync_dir(path("")).unwrap();
    file.write_at(0, &[&[2; 1536]]).unwrap();
    assert_eq!(disk.unsynced().len(), 3);
    let seen: BTreeSet<Vec<u8>> =
        (0..8).map(|mask| read(&disk.crash_image(Survival::Mask(mask)), "a").unwrap()).collect();
    assert_eq!(seen.len(), 8);
    let seeded: BTreeSet<Vec<u8>> =
        (0..200).map(|seed| read(&disk.crash_image(Survival::Seed(seed)), "a").unwrap()).collect();
    assert_eq!(seeded, seen);
}

#[test]
fn a_failed_sync_loses_the_data_although_it_can_be_read_and_synced_again() {
    let disk = SimDisk::new();
    let file = create(&disk, "a", &[1; 512]);
    file.sync().unwrap();
    disk.sync_dir(path("")).unwrap();
    file.write_at(0, &[&[2; 512]]).unwrap();
    disk.inject(Fault::Error(disk.changes() + 1, InjectedError::Io));
    assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(5));
    file.sync().unwrap();
    assert_eq!(read(&disk, "a").unwrap(), [2; 512]);
    assert_eq!(read(&disk.crash_image(Survival::Everything), "a").unwrap(), [1; 512]);
}

#[test]
fn a_full_disk_takes_what_fits_and_reserved_space_is_not_taken_away() {
    let disk = SimDisk::new();
    disk.set_quota(Some(12 << 10));
    let reserved = disk.open(path("r"), Open::CreateNew).unwrap();
    reserved.allocate(8 << 10).unwrap();
    let file = disk.open(path("a"), Open::CreateNew).unwrap();
    assert_eq!(file.write_at(0, &[&[1; 5000]]).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!((file.stat().unwrap().len, disk.free_space().unwrap()), (4096, 0));
    reserved.write_at(0, &[&[1; 8192]]).unwrap();
    disk.unlink(path("a")).unwrap();
    assert_eq!(disk.free_space().unwrap(), 0);
    drop(file);
    assert_eq!(disk.free_space().unwrap(), 4096);
}

#[test]
fn a_stopped_machine_does_nothing_more() {
    let disk = SimDisk::new();
    disk.inject(Fault::CrashAfter(2));
    let file = disk.open(path("a"), Open::CreateNew).unwrap();
    assert!(is_simulated_crash(&file.write_at(0, &[b"x"]).unwrap_err()));
    assert!(is_simulated_crash(&file.read_at(0, &mut [0]).unwrap_err()));
    assert!(disk.has_stopped());
    let after = disk.crash_image(Survival::Everything);
    assert_eq!(read(&after, "a").unwrap(), b"x");
    assert_eq!(after.changes(), 0);
}

#[test]
fn a_cut_that_was_not_synced_brings_the_old_bytes_back() {
    let disk = SimDisk::new();
    let file = create(&disk, "a", &[1; 1024]);
    file.sync().unwrap();
    disk.sync_dir(path("")).unwrap();
    file.set_len(0).unwrap();
    assert_eq!(read(&disk.crash_image(Survival::Nothing), "a").unwrap(), [1; 1024]);
    file.set_len(512).unwrap();
    file.sync().unwrap();
    assert_eq!(read(&disk.crash_image(Survival::Nothing), "a").unwrap(), [0; 512]);
}

#[test]
fn forks_go_their_own_way_and_the_trace_tells_what_was_asked() {
    let disk = SimDisk::new();
    disk.start_trace();
    let file = create(&disk, "a", b"1");
    let fork = disk.fork();
    file.write_at(0, &[b"2"]).unwrap();
    assert_eq!((read(&disk, "a").unwrap(), read(&fork, "a").unwrap()), (b"2".to_vec(), b"1".to_vec()));
    let kinds: Vec<OperationKind> = disk.trace().iter().map(|operation| operation.kind).collect();
    assert_eq!(kinds, [OperationKind::Create, OperationKind::Write, OperationKind::Write]);
    assert_eq!(disk.trace()[1].path, path("a"));
}
