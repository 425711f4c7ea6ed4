//! A file system that keeps only what it must when its power is cut.
//!
//! It promises less than any that a board has: of what was done to a file since that file was synced,
//! and of what was done to the names in a directory since that directory was synced, any part may be
//! lost, and in any order.
//!
//! - A sector that was written has its new content, its old, zeros, leftovers of another file, or is
//!   torn in its middle. Each sector of each write has a fate of its own.
//! - The length is any that the file had or passed through, whether its bytes came or not.
//! - A name in a directory leads where it led at the last sync or where it was made to lead since. A
//!   rename replaces what had the name at once, but where it comes from and where it goes to are two
//!   names: both may be left, or neither.
//! - A file that is synced is lost all the same if the name that leads to it is.
//! - What was synced is there, and nothing is there that nobody wrote, but for a file's leftovers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path};

use super::super::disk::record::Done;
use super::super::names_in;
use super::chance::Chance;

/// What a disk writes at once, if it writes it.
const SECTOR: usize = 512;

/// The directory that the model is of.
const ROOT: Id = 0;

type Id = usize;

#[derive(Clone, Debug)]
pub(super) struct Disk {
    nodes: Vec<Node>,
    /// The files that the process has open, by their real inode numbers.
    open: BTreeMap<u64, Id>,
}

#[derive(Clone, Debug)]
enum Node {
    File(FileNode),
    Dir(DirNode),
}

/// A file as of its last sync, and what was done to it since.
#[derive(Clone, Debug)]
struct FileNode {
    synced: Content,
    since: Vec<Edit>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Content {
    bytes: Vec<u8>,
    mode: u32,
}

#[derive(Clone, Debug)]
enum Edit {
    Write { at: usize, bytes: Vec<u8> },
    Length(usize),
    Mode(u32),
}

/// A directory as of its last sync, and what was done to its names since. In the order in which they
/// came and not by name: names of temporary files differ from run to run.
#[derive(Clone, Debug, Default)]
struct DirNode {
    synced: Names,
    since: Vec<(String, Option<Id>)>,
}

type Names = Vec<(String, Id)>;

/// What the cut does to one thing.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// All since the sync is there: it was written in time.
    Kept,
    /// Nothing of it is.
    Lost,
    /// Each part has a fate of its own.
    Mixed,
}

impl Disk {
    /// An empty directory that is there for good.
    pub(super) fn empty() -> Self {
        Self { nodes: vec![Node::Dir(DirNode::default())], open: BTreeMap::new() }
    }

    /// What lies in a real directory, all of it there for good.
    pub(super) fn of(dir: &Path) -> Self {
        let mut disk = Self::empty();
        disk.take_in(ROOT, dir);
        disk
    }

    fn take_in(&mut self, dir: Id, from: &Path) {
        for name in names_in(from) {
            let path = from.join(&name);
            let id = if path.is_dir() {
                let id = self.add(Node::Dir(DirNode::default()));
                self.take_in(id, &path);
                id
            } else {
                self.add(Node::File(FileNode { synced: Content::of(&path), since: Vec::new() }))
            };
            self.dir_mut(dir).synced.push((name, id));
        }
    }

    /// Does what the store did below the directory `base`.
    pub(super) fn apply(&mut self, base: &Path, done: &Done) {
        match done {
            Done::Open { path, file, mode } => self.open_file(&below(base, path), *file, *mode),
            Done::MakeDir(path) => {
                let id = self.add(Node::Dir(DirNode::default()));
                self.put_name(&below(base, path), Some(id));
            }
            Done::Write { file, at, bytes } => {
                let at = usize::try_from(*at).unwrap();
                self.edit(*file, Edit::Write { at, bytes: bytes.clone() });
            }
            Done::SetLength { file, length } => {
                self.edit(*file, Edit::Length(usize::try_from(*length).unwrap()));
            }
            Done::SetMode { file, mode } => self.edit(*file, Edit::Mode(*mode)),
            Done::SyncData(file) => self.opened(*file).sync_data(),
            Done::SyncAll(file) => self.opened(*file).sync_all(),
            // What is above the model is none of its business.
            Done::SyncDir(path) if !path.starts_with(base) => {}
            Done::SyncDir(path) => {
                let id = self.find(&below(base, path)).expect("a directory that was synced");
                self.dir_mut(id).sync();
            }
            Done::Rename { from, to } => {
                let (from, to) = (below(base, from), below(base, to));
                let id = self.find(&from).expect("what was renamed");
                self.put_name(&from, None);
                self.put_name(&to, Some(id));
            }
            Done::Link { from, to } => {
                let id = self.find(&below(base, from)).expect("what was linked");
                self.put_name(&below(base, to), Some(id));
            }
            Done::RemoveFile(path) | Done::RemoveDir(path) => self.put_name(&below(base, path), None),
        }
    }

    fn open_file(&mut self, path: &[String], file: u64, mode: u32) {
        let id = self.find(path).unwrap_or_else(|| {
            let synced = Content { bytes: Vec::new(), mode };
            let id = self.add(Node::File(FileNode { synced, since: Vec::new() }));
            self.put_name(path, Some(id));
            id
        });
        self.open.insert(file, id);
    }

    /// The process was killed, and the machine goes on.
    pub(super) fn close_all(&mut self) {
        self.open.clear();
    }

    /// What is on the disk after a power cut at this instant.
    pub(super) fn cut(&self, chance: &mut Chance) -> Self {
        let mut after = Self::empty();
        let fate = *chance.one_of(&[Fate::Kept, Fate::Lost, Fate::Mixed, Fate::Mixed]);
        self.cut_dir(ROOT, &mut after, ROOT, fate, &mut BTreeMap::new(), chance);
        after
    }

    /// Fills a directory of `after`. `kept` has what was taken over already, since two names may lead
    /// to one file.
    fn cut_dir(
        &self,
        dir: Id,
        after: &mut Self,
        into: Id,
        fate: Fate,
        kept: &mut BTreeMap<Id, Id>,
        chance: &mut Chance,
    ) {
        for (name, id) in self.dir(dir).after_cut(fate, chance) {
            let copy = match (&self.nodes[id], kept.get(&id)) {
                (_, Some(copy)) => *copy,
                (Node::File(file), None) => {
                    let synced = file.after_cut(fate, chance);
                    after.add(Node::File(FileNode { synced, since: Vec::new() }))
                }
                (Node::Dir(_), None) => {
                    let copy = after.add(Node::Dir(DirNode::default()));
                    self.cut_dir(id, after, copy, fate, kept, chance);
                    copy
                }
            };
            kept.insert(id, copy);
            after.dir_mut(into).synced.push((name, copy));
        }
    }

    /// Makes a real directory what a process sees of this one.
    pub(super) fn lay_out(&self, at: &Path) {
        self.lay_out_dir(ROOT, at);
    }

    fn lay_out_dir(&self, dir: Id, at: &Path) {
        for (name, id) in self.dir(dir).visible() {
            let path = at.join(name);
            match &self.nodes[id] {
                Node::Dir(_) => {
                    fs::create_dir(&path).unwrap();
                    self.lay_out_dir(id, &path);
                }
                Node::File(file) => {
                    let Content { bytes, mode } = file.visible();
                    fs::write(&path, bytes).unwrap();
                    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
                }
            }
        }
    }

    /// Checks that a real directory is what a process should see of this one: that nothing was done to
    /// it which the record does not tell.
    pub(super) fn assert_is(&self, at: &Path) {
        self.assert_dir_is(ROOT, at);
    }

    fn assert_dir_is(&self, dir: Id, at: &Path) {
        let names = self.dir(dir).visible();
        let wanted: BTreeSet<String> = names.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(names_in(at), wanted, "in {}", at.display());
        for (name, id) in names {
            let path = at.join(name);
            match &self.nodes[id] {
                Node::Dir(_) => self.assert_dir_is(id, &path),
                Node::File(file) => {
                    assert!(Content::of(&path) == file.visible(), "{} is otherwise", path.display());
                }
            }
        }
    }

    fn add(&mut self, node: Node) -> Id {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn find(&self, path: &[String]) -> Option<Id> {
        path.iter().try_fold(ROOT, |dir, name| {
            let names = self.dir(dir).visible();
            names.into_iter().find(|(found, _)| found == name).map(|(_, id)| id)
        })
    }

    fn put_name(&mut self, path: &[String], id: Option<Id>) {
        let (name, parent) = path.split_last().expect("not the root itself");
        let parent = self.find(parent).expect("a directory with a change in it");
        self.dir_mut(parent).since.push((name.clone(), id));
    }

    fn edit(&mut self, file: u64, edit: Edit) {
        self.opened(file).since.push(edit);
    }

    fn opened(&mut self, file: u64) -> &mut FileNode {
        match &mut self.nodes[self.open[&file]] {
            Node::File(file) => file,
            Node::Dir(_) => panic!("a directory is open as a file"),
        }
    }

    fn dir(&self, id: Id) -> &DirNode {
        match &self.nodes[id] {
            Node::Dir(dir) => dir,
            Node::File(_) => panic!("a file is used as a directory"),
        }
    }

    fn dir_mut(&mut self, id: Id) -> &mut DirNode {
        match &mut self.nodes[id] {
            Node::Dir(dir) => dir,
            Node::File(_) => panic!("a file is used as a directory"),
        }
    }
}

impl DirNode {
    fn visible(&self) -> Names {
        self.names(|versions| *versions.last().expect("at least that it is not there"))
    }

    fn after_cut(&self, fate: Fate, chance: &mut Chance) -> Names {
        self.names(|versions| match fate {
            Fate::Kept => *versions.last().expect("at least that it is not there"),
            Fate::Lost => versions[0],
            Fate::Mixed => *chance.one_of(versions),
        })
    }

    fn sync(&mut self) {
        self.synced = self.visible();
        self.since.clear();
    }

    /// Each name with the one that is chosen of all things it has led to since the sync.
    fn names(&self, mut choose: impl FnMut(&[Option<Id>]) -> Option<Id>) -> Names {
        let mut versions: Vec<(&String, Vec<Option<Id>>)> =
            self.synced.iter().map(|(name, id)| (name, vec![Some(*id)])).collect();
        for (name, id) in &self.since {
            match versions.iter_mut().find(|(known, _)| *known == name) {
                Some((_, versions)) => versions.push(*id),
                None => versions.push((name, vec![None, *id])),
            }
        }
        let chosen = versions.into_iter().map(|(name, versions)| (name, choose(&versions)));
        chosen.filter_map(|(name, id)| Some((name.clone(), id?))).collect()
    }
}

impl FileNode {
    fn visible(&self) -> Content {
        let mut content = self.synced.clone();
        self.since.iter().for_each(|edit| content.take(edit));
        content
    }

    fn sync_all(&mut self) {
        self.synced = self.visible();
        self.since.clear();
    }

    /// As `fdatasync`, which need not write the mode.
    fn sync_data(&mut self) {
        self.synced.bytes = self.visible().bytes;
        self.since.retain(|edit| matches!(edit, Edit::Mode(_)));
    }

    fn after_cut(&self, cut: Fate, chance: &mut Chance) -> Content {
        let own = [Fate::Kept, Fate::Lost, Fate::Mixed, Fate::Mixed];
        match if matches!(cut, Fate::Mixed) { *chance.one_of(&own) } else { cut } {
            Fate::Kept => self.visible(),
            Fate::Lost => self.synced.clone(),
            Fate::Mixed => self.mangled(chance),
        }
    }

    fn mangled(&self, chance: &mut Chance) -> Content {
        let (mut content, mut lengths) = (self.synced.clone(), vec![self.synced.bytes.len()]);
        for edit in &self.since {
            match edit {
                Edit::Write { at, bytes } => {
                    write_some(&mut content.bytes, *at, bytes, chance);
                    lengths.push(at + bytes.len());
                }
                Edit::Length(length) => lengths.push(*length),
                Edit::Mode(_) if chance.once_in(2) => {}
                Edit::Mode(mode) => content.mode = *mode,
            }
        }
        let (least, most) = (*lengths.iter().min().unwrap(), *lengths.iter().max().unwrap());
        let length = if chance.once_in(2) { *chance.one_of(&lengths) } else { chance.within(least..=most) };
        content.bytes.resize(length, 0);
        content
    }
}

impl Content {
    fn of(path: &Path) -> Self {
        let mode = fs::metadata(path).unwrap().permissions().mode() & 0o777;
        Self { bytes: fs::read(path).unwrap(), mode }
    }

    fn take(&mut self, edit: &Edit) {
        match edit {
            Edit::Write { at, bytes } => write(&mut self.bytes, *at, bytes),
            Edit::Length(length) => self.bytes.resize(*length, 0),
            Edit::Mode(mode) => self.mode = *mode,
        }
    }
}

/// Writes, and fills what is skipped with zeros.
fn write(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[at..end].copy_from_slice(bytes);
}

/// Writes what comes through of each sector.
fn write_some(content: &mut Vec<u8>, at: usize, bytes: &[u8], chance: &mut Chance) {
    let mut done = 0;
    while done < bytes.len() {
        let here = at + done;
        let count = (SECTOR - here % SECTOR).min(bytes.len() - done);
        let new = &bytes[done..done + count];
        match chance.within(0..=7) {
            0..=2 => write(content, here, new),
            3 | 4 => {}
            5 => write(content, here, &vec![0; count]),
            6 => write(content, here, &chance.bytes(count)),
            _ => write(content, here, &new[..chance.within(0..=count)]),
        }
        done += count;
    }
}

/// The names that lead from `base` to `path`.
fn below(base: &Path, path: &Path) -> Vec<String> {
    let path = path.strip_prefix(base).expect("the store keeps to its directory");
    let name = |component: Component<'_>| component.as_os_str().to_str().unwrap().to_owned();
    path.components().map(name).collect()
}
