//! The tree of a simulated disk: paths followed, names added, moved and removed.
//!
//! Invariants:
//! - A call that fails changes nothing.
//! - Numbers of files and directories are never used again.

use std::io;

use rustix::io::Errno;

use super::image::{Image, Inode};
use super::names::{Dir, Node};
use super::{State, Way};

impl State {
    /// The number of a directory.
    pub(super) fn dir(&self, way: &Way) -> io::Result<u64> {
        way.names.iter().try_fold(way.from, |at, name| match self.dirs[&at].live().get(name) {
            Some(Node::Dir(number)) => Ok(*number),
            Some(Node::File(_)) => Err(Errno::NOTDIR.into()),
            None => Err(Errno::NOENT.into()),
        })
    }

    pub(super) fn names(&mut self, dir: u64) -> io::Result<&mut Dir> {
        self.dirs.get_mut(&dir).ok_or(Errno::NOENT.into())
    }

    /// The directory that holds the last name of a way, by its number, and that name.
    fn place(&self, way: &Way) -> io::Result<(u64, String)> {
        let (name, names) = way.names.split_last().ok_or(Errno::ISDIR)?;
        let dir = self.dir(&Way { from: way.from, names: names.to_vec() })?;
        Ok((dir, name.clone()))
    }

    fn node(&self, way: &Way) -> io::Result<Node> {
        let (dir, name) = self.place(way)?;
        self.dirs[&dir].live().get(&name).copied().ok_or(Errno::NOENT.into())
    }

    pub(super) fn file(&self, way: &Way) -> io::Result<u64> {
        match self.node(way)? {
            Node::File(number) => Ok(number),
            Node::Dir(_) => Err(Errno::ISDIR.into()),
        }
    }

    /// Gives a new number a name that is free.
    fn add(&mut self, way: &Way, node: fn(u64) -> Node) -> io::Result<u64> {
        let (dir, name) = self.place(way)?;
        if self.dirs[&dir].live().contains_key(&name) {
            return Err(Errno::EXIST.into());
        }
        let number = self.number_next;
        self.number_next += 1;
        self.names(dir)?.add(name, node(number));
        Ok(number)
    }

    pub(super) fn create_file(&mut self, way: &Way) -> io::Result<u64> {
        let number = self.add(way, Node::File)?;
        self.inodes.insert(number, Inode::named(Image::default()));
        Ok(number)
    }

    pub(super) fn create_dir(&mut self, way: &Way) -> io::Result<bool> {
        let mut is_new = false;
        for length in 1..=way.names.len() {
            let part = Way { from: way.from, names: way.names[..length].to_vec() };
            match self.dir(&part) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let number = self.add(&part, Node::Dir)?;
                    self.dirs.insert(number, Dir::default());
                    is_new = true;
                }
                found => drop(found?),
            }
        }
        Ok(is_new)
    }

    pub(super) fn rename(&mut self, from: &Way, to: &Way) -> io::Result<()> {
        let node = self.node(from)?;
        let (dir, name_from) = self.place(from)?;
        let (dir_to, name_to) = self.place(to)?;
        if dir != dir_to {
            return Err(Errno::XDEV.into());
        }
        let replaced = self.dirs[&dir].live().get(&name_to).copied();
        match (node, replaced) {
            (_, Some(replaced)) if replaced == node => return Ok(()),
            (_, None) | (Node::File(_), Some(Node::File(_))) => {}
            (Node::File(_), Some(Node::Dir(_))) => return Err(Errno::ISDIR.into()),
            (Node::Dir(_), Some(_)) => return Err(Errno::EXIST.into()),
        }
        self.names(dir)?.rename(name_from, name_to, node);
        if let Some(Node::File(replaced)) = replaced {
            self.unname(replaced);
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, way: &Way) -> io::Result<()> {
        let number = self.file(way)?;
        let (dir, name) = self.place(way)?;
        self.names(dir)?.remove(name);
        self.unname(number);
        Ok(())
    }

    fn unname(&mut self, number: u64) {
        if let Some(inode) = self.inodes.get_mut(&number) {
            inode.named = false;
        }
    }
}
