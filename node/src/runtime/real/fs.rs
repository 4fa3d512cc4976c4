//! Files of the operating system. Each call is one hop to tokio's blocking pool, except that a short
//! read of what the page cache holds is answered at once ([`File::read_at`]), and that a write with sync blocks where it
//! is called ([`File::write_all_at_and_sync`]).

use std::fs::{File as StdFile, OpenOptions as StdOptions, TryLockError};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rustix::io::{Errno, ReadWriteFlags, preadv2, pwritev2};

/// Longer reads always go to the blocking pool: copying them would hold up the tasks of this thread
/// for longer than the hop takes.
const READ_AT_ONCE_BYTES_MAX: usize = 64 << 10;

/// How [`File::open`] opens a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Read only; the file must exist.
    Read,
    /// Read and write; the file must exist.
    ReadWrite,
    /// Read and write; the file must not exist. Its name is durable after [`sync_dir`].
    CreateNew,
}

/// One entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The last component of its path.
    pub name: String,
    /// True for a folder.
    pub is_dir: bool,
    /// Its size in bytes; 0 for a folder.
    pub len: u64,
}

/// An open file with positioned reads and writes. Clones share it; it closes with the last clone.
#[derive(Clone, Debug)]
pub struct File {
    inner: Arc<StdFile>,
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    super::task::run_blocking(work).await.unwrap_or_else(|_| Err(ending()))
}

fn ending() -> io::Error {
    io::Error::new(io::ErrorKind::Interrupted, "process is ending")
}

async fn on_path<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce(PathBuf) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let path = path.to_path_buf();
    blocking(move || work(path)).await
}

impl File {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists` ([`OpenMode::CreateNew`]), `PermissionDenied`, `StorageFull`.
    pub async fn open(path: &Path, mode: OpenMode) -> io::Result<File> {
        on_path(path, move |path| {
            let mut options = StdOptions::new();
            match mode {
                OpenMode::Read => options.read(true),
                OpenMode::ReadWrite => options.read(true).write(true),
                OpenMode::CreateNew => options.read(true).write(true).create_new(true),
            };
            Ok(File { inner: Arc::new(options.open(path)?) })
        })
        .await
    }

    /// Reads up to `len` bytes at `offset`; fewer only at the end of the file.
    ///
    /// What the page cache holds is copied on the calling thread, without a hop to the blocking pool,
    /// which costs ten times the copy. The rest, if there is any, takes the hop.
    ///
    /// # Errors
    /// Whatever the disk says; never `UnexpectedEof`.
    pub async fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let mut buf = BytesMut::zeroed(len);
        let mut filled = 0;
        if len <= READ_AT_ONCE_BYTES_MAX {
            let (n, done) = read_at_once(&self.inner, &mut buf, offset);
            if done {
                buf.truncate(n);
                return Ok(buf.freeze());
            }
            filled = n;
        }
        let file = self.inner.clone();
        blocking(move || {
            while filled < len {
                match file.read_at(&mut buf[filled..], offset + filled as u64) {
                    Ok(0) => break,
                    Ok(n) => filled += n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            buf.truncate(filled);
            Ok(buf.freeze())
        })
        .await
    }

    /// Writes all of `data` at `offset`, growing the file as needed. Not durable until synced.
    ///
    /// # Errors
    /// `StorageFull` and others; part of `data` may have been written.
    pub async fn write_all_at(&self, offset: u64, data: Bytes) -> io::Result<()> {
        let file = self.inner.clone();
        blocking(move || file.write_all_at(&data, offset)).await
    }

    /// [`write_all_at`](File::write_all_at), then [`sync_data`](File::sync_data) of these bytes, in one
    /// hop and, where the file system can, in one system call (`RWF_DSYNC`).
    ///
    /// # Errors
    /// As of both; after an error nothing written since the last good sync can be trusted.
    pub async fn write_all_at_and_sync(&self, offset: u64, data: Bytes) -> io::Result<()> {
        let file = self.inner.clone();
        // The log's clients wait for just this, one after the other.
        super::task::run_in_place(move || write_through(&file, offset, &data))
            .await
            .unwrap_or_else(|_| Err(ending()))
    }

    /// Makes the file's bytes and length durable (`fdatasync`). Its name needs [`sync_dir`].
    ///
    /// # Errors
    /// After an error nothing written since the last good sync can be trusted, ever.
    pub async fn sync_data(&self) -> io::Result<()> {
        let file = self.inner.clone();
        blocking(move || file.sync_data()).await
    }

    /// Cuts or extends (with zeros) the file to `len` bytes. Durable after a sync.
    ///
    /// # Errors
    /// `StorageFull` and others.
    pub async fn set_len(&self, len: u64) -> io::Result<()> {
        let file = self.inner.clone();
        blocking(move || file.set_len(len)).await
    }

    /// The file's length in bytes.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn len(&self) -> io::Result<u64> {
        let file = self.inner.clone();
        blocking(move || Ok(file.metadata()?.len())).await
    }
}

fn write_through(file: &StdFile, mut offset: u64, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        match pwritev2(file, &[IoSlice::new(data)], offset, ReadWriteFlags::DSYNC) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                data = &data[written..];
            }
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                file.write_all_at(data, offset)?;
                return file.sync_data();
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Fills `buf` from `offset` on with what needs no disk: how much, and whether that is all there is.
/// Errors are left to the read that may wait, which meets them again if they are real: `EAGAIN` (not
/// in the cache) and `EOPNOTSUPP` (tmpfs and others) are none.
fn read_at_once(file: &StdFile, buf: &mut [u8], offset: u64) -> (usize, bool) {
    let mut filled = 0;
    while filled < buf.len() {
        let mut rest = [IoSliceMut::new(&mut buf[filled..])];
        match preadv2(file, &mut rest, offset + filled as u64, ReadWriteFlags::NOWAIT) {
            Ok(0) => return (filled, true),
            Ok(n) => filled += n,
            Err(Errno::INTR) => {}
            Err(_) => return (filled, false),
        }
    }
    (filled, true)
}

/// Makes the folder at `path` and those above it that are missing.
///
/// # Errors
/// `NotADirectory`, `PermissionDenied`, `StorageFull`.
pub async fn create_dir_all(path: &Path) -> io::Result<()> {
    on_path(path, std::fs::create_dir_all).await
}

/// The entries of a folder, sorted by name.
///
/// # Errors
/// `NotFound`, `NotADirectory`; `InvalidData` for a name that is not UTF-8.
pub async fn read_dir(path: &Path) -> io::Result<Vec<DirEntry>> {
    on_path(path, |path| {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            let name = entry.file_name().into_string().map_err(|name| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("file name {name:?} is not UTF-8"),
                )
            })?;
            let len = if meta.is_dir() { 0 } else { meta.len() };
            entries.push(DirEntry { name, is_dir: meta.is_dir(), len });
        }
        entries.sort();
        Ok(entries)
    })
    .await
}

/// Gives the file at `from` the name `to`, replacing what was there, in one step. Durable after
/// [`sync_dir`]. Starling never renames a file that is open.
///
/// # Errors
/// `NotFound`, `PermissionDenied`.
pub async fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let to = to.to_path_buf();
    on_path(from, |from| std::fs::rename(from, to)).await
}

/// Gives the file at `from` a second name, `to`, which must be free and on the same file system: both
/// lead to the same bytes, and these go with the last name. Durable after [`sync_dir`] of the folder of
/// `to`.
///
/// # Errors
/// `NotFound`, `NotADirectory`, `AlreadyExists`, `PermissionDenied` for a folder, `CrossesDevices`.
pub async fn hard_link(from: &Path, to: &Path) -> io::Result<()> {
    let to = to.to_path_buf();
    on_path(from, |from| std::fs::hard_link(from, to)).await
}

/// Removes the file's name; its bytes go when the last open handle closes. Durable after
/// [`sync_dir`].
///
/// # Errors
/// `NotFound`, `IsADirectory`, `PermissionDenied`.
pub async fn remove_file(path: &Path) -> io::Result<()> {
    on_path(path, std::fs::remove_file).await
}

/// Makes the names in the folder at `path` durable.
///
/// # Errors
/// `NotFound`, or whatever the disk says.
pub async fn sync_dir(path: &Path) -> io::Result<()> {
    on_path(path, |path| StdFile::open(path)?.sync_all()).await
}

/// Holds a lock on a file until dropped or until the process dies.
#[derive(Debug)]
pub struct FileLock {
    _file: StdFile,
}

/// Takes the exclusive lock of the file at `path`, which is made if missing.
///
/// # Errors
/// `WouldBlock` when another process, or this one, holds it.
pub async fn lock_exclusive(path: &Path) -> io::Result<FileLock> {
    on_path(path, |path| {
        let file = StdOptions::new().create(true).truncate(false).write(true).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(FileLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(e)) => Err(e),
        }
    })
    .await
}
