//! Names that file systems, desktops and storage boxes put into directories by themselves.
//!
//! The root of a fresh volume is not empty: it holds `lost+found`, or a directory of snapshots. A
//! directory with nothing else in it is an empty one to a store, and these names are left alone.

/// Whole names.
const NAMES: &[&str] = &[
    // ext2 to ext4, and their quotas and journal.
    "lost+found",
    "aquota.group",
    "aquota.user",
    "quota.group",
    "quota.user",
    ".journal",
    // Snapshots of NetApp, Btrfs tools, ZFS, Synology and QNAP.
    ".snapshot",
    ".snapshots",
    ".zfs",
    "#snapshot",
    "@Recently-Snapshot",
    // Indexes and bins of storage boxes.
    "@eaDir",
    "@Recycle",
    "#recycle",
    // Desktops.
    ".directory",
    ".Trash",
    // macOS.
    ".AppleDouble",
    ".apdisk",
    ".DocumentRevisions-V100",
    ".DS_Store",
    ".fseventsd",
    ".Spotlight-V100",
    ".TemporaryItems",
    ".Trashes",
    ".VolumeIcon.icns",
    // Windows.
    "$RECYCLE.BIN",
    "desktop.ini",
    "System Volume Information",
    "Thumbs.db",
];

/// Beginnings of names: a bin per user, extended attributes of macOS, and files that were removed
/// while they were open, on NFS and on FUSE.
const PREFIXES: &[&str] = &[".Trash-", "._", ".nfs", ".fuse_hidden"];

/// Whether a name in a directory is one that the system made, and not data of a user.
pub(crate) fn is_of_the_system(name: &str) -> bool {
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}
