//! An import: bytes to a sealed file, the sealed file to an inspector, and only what passes into the store.
//!
//! Whatever goes wrong before the commit, dropping what there is leaves the store as it was.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use hearth_proto::v1 as pb;
use pb::import_event::Event;
use pb::import_request::Part;
use tokio::sync::watch;
use tonic::{Status, Streaming};

use super::super::convert::{ImportHead, model_of};
use super::super::status::{Fault, Invalid};
use super::super::stream::Outlet;
use super::{ModelsService, blocking};
use crate::rpc::convert::ImportSource;
use crate::store::{Import, ImportError, ImportSpec, Sealed};
use crate::units::{Bytes, Digest, ModelName};

/// Largest chunk that the API allows.
const CHUNK: usize = 1 << 20;

/// How long the next part of a file may take: a disk of the client that must spin up first, and more.
const STALL: Duration = Duration::from_secs(30);

/// A client hears of its progress this many times.
const STEPS: u64 = 100;

/// Does an import and counts how it ended.
pub(super) async fn import(
    service: ModelsService,
    parts: Streaming<pb::ImportRequest>,
    outlet: Outlet<pb::ImportEvent>,
) -> Result<(), Fault> {
    let metrics = service.metrics.clone();
    let result = take_in(service, parts, outlet).await;
    metrics.imported(result.as_ref().err().map_or("ok", Fault::reason));
    result
}

async fn take_in(
    service: ModelsService,
    mut parts: Streaming<pb::ImportRequest>,
    outlet: Outlet<pb::ImportEvent>,
) -> Result<(), Fault> {
    let ImportHead { name, sha256, source } = header(&mut parts).await?;
    service.engines.may_begin()?;
    // Said now rather than after gigabytes were sent; what counts is the hold at the commit.
    drop(service.engines.hold(&name).await??);
    let sealed = match source {
        ImportSource::Sent(size) => {
            receive(&service, ImportSpec { name: name.clone(), size, sha256 }, parts, &outlet).await?
        }
        ImportSource::Path(path) => copy(&service, name.clone(), sha256, path, &outlet).await?,
    };
    let model = admit(&service, name, sealed).await?;
    outlet.send(pb::ImportEvent { event: Some(Event::Done(model)) }).await
}

async fn header(parts: &mut Streaming<pb::ImportRequest>) -> Result<ImportHead, Fault> {
    match next(parts).await? {
        Some(Part::Header(header)) => Ok(header.try_into()?),
        Some(Part::Chunk(_)) | None => Err(Invalid::new("header", "comes first").into()),
    }
}

/// The next part. It is not waited for without end: a client that drops only the answer of its call and still
/// owes a part of the file resets nothing as long as its connection lives, and what it has sent would lie on
/// the disk until then.
async fn next(
    parts: &mut (impl Stream<Item = Result<pb::ImportRequest, Status>> + Unpin),
) -> Result<Option<Part>, Fault> {
    let next = tokio::time::timeout(STALL, parts.next()).await;
    match next.map_err(|_| Fault::SenderStalled(STALL))? {
        None => Ok(None),
        Some(Ok(pb::ImportRequest { part: Some(part) })) => Ok(Some(part)),
        Some(Ok(pb::ImportRequest { part: None })) => {
            Err(Invalid::new("part", "has no content that this daemon knows").into())
        }
        Some(Err(_)) => Err(Fault::ClientGone),
    }
}

/// Takes the chunks in, one after the other.
async fn receive(
    service: &ModelsService,
    spec: ImportSpec,
    mut parts: Streaming<pb::ImportRequest>,
    outlet: &Outlet<pb::ImportEvent>,
) -> Result<Sealed, Fault> {
    let mut progress = Progress::of(spec.size);
    let store = service.store.clone();
    let mut import = blocking(move || store.begin_import(spec)).await??;
    while let Some(part) = next(&mut parts).await? {
        import = write(import, chunk(part)?).await?;
        progress.tell(import.written(), outlet).await?;
    }
    Ok(blocking(move || import.seal()).await??)
}

fn chunk(part: Part) -> Result<Vec<u8>, Fault> {
    match part {
        Part::Header(_) => Err(Invalid::new("header", "comes once").into()),
        Part::Chunk(bytes) if bytes.len() > CHUNK => {
            Err(Invalid::new("chunk", format!("has {} bytes, at most {CHUNK} are allowed", bytes.len()))
                .into())
        }
        Part::Chunk(bytes) => Ok(bytes),
    }
}

async fn write(mut import: Import, bytes: Vec<u8>) -> Result<Import, Fault> {
    let written = blocking(move || import.write(&bytes).map(|()| import)).await?;
    Ok(written?)
}

/// Takes a file of this machine in.
async fn copy(
    service: &ModelsService,
    name: ModelName,
    sha256: Option<Digest>,
    path: String,
    outlet: &Outlet<pb::ImportEvent>,
) -> Result<Sealed, Fault> {
    let allowed = service.config.now().import_dirs.clone();
    let (file, size) = blocking(move || open_allowed(&allowed, Path::new(&path))).await??;
    let (written, mut seen) = watch::channel(Bytes(0));
    let store = service.store.clone();
    let spec = ImportSpec { name, size, sha256 };
    let copy = blocking(move || {
        store.import_copy(spec, &file, |done| {
            written.send_replace(done);
            // Nobody watches any more once the call has ended.
            if written.is_closed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    });
    let mut copy = std::pin::pin!(copy);
    let mut progress = Progress::of(size);
    loop {
        tokio::select! {
            sealed = &mut copy => return Ok(sealed??),
            Ok(()) = seen.changed() => {
                let done = *seen.borrow_and_update();
                progress.tell(done, outlet).await?;
            }
        }
    }
}

/// Opens a file under one of the folders, wherever links in its path lead.
fn open_allowed(allowed: &[PathBuf], path: &Path) -> Result<(File, Bytes), Fault> {
    let unreadable = |error| Fault::Import(ImportError::Source(error));
    let folders: Vec<PathBuf> = allowed.iter().filter_map(|folder| folder.canonicalize().ok()).collect();
    // Whether a file outside exists is not told either.
    let path = path.canonicalize().map_err(|_| Fault::PathNotAllowed)?;
    if !folders.iter().any(|folder| path.starts_with(folder)) {
        return Err(Fault::PathNotAllowed);
    }
    let file = File::open(&path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Invalid::new("header.source_path", "is not a file").into());
    }
    Ok((file, Bytes(metadata.len())))
}

/// Has the sealed file inspected, and makes it a model if it passes.
async fn admit(service: &ModelsService, name: ModelName, sealed: Sealed) -> Result<pb::Model, Fault> {
    let inspection = service.engines.inspect_file(sealed.path(), &name).await?;
    let (engines, of) = (service.engines.clone(), name.clone());
    let commit = move || {
        let digest = sealed.digest();
        let manifest = sealed.commit(inspection.facts.clone())?;
        engines.keep_footprint(&of, &digest, &inspection);
        tracing::info!(model.name = %manifest.name, model.bytes = manifest.size().0, "Imported model");
        Ok::<_, ImportError>(manifest)
    };
    let manifest = service.change(name, commit).await?;
    Ok(model_of(&manifest, None.into()))
}

/// Tells a client how far its import is, now and then.
struct Progress {
    total: Bytes,
    told: Bytes,
}

impl Progress {
    fn of(total: Bytes) -> Self {
        Self { total, told: Bytes(0) }
    }

    async fn tell(&mut self, done: Bytes, outlet: &Outlet<pb::ImportEvent>) -> Result<(), Fault> {
        let step = (self.total.0 / STEPS).max(CHUNK as u64);
        if done != self.total && done.saturating_sub(self.told) < Bytes(step) {
            return Ok(());
        }
        self.told = done;
        let progress = pb::ImportProgress { done_bytes: done.0, total_bytes: self.total.0 };
        outlet.send(pb::ImportEvent { event: Some(Event::Progress(progress)) }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_nothing_more_is_not_waited_for() {
        let chunk = pb::ImportRequest { part: Some(Part::Chunk(vec![1])) };
        let mut parts = futures_util::stream::iter([Ok(chunk)]).chain(futures_util::stream::pending());
        assert!(matches!(next(&mut parts).await, Ok(Some(Part::Chunk(_)))));
        let asked = tokio::time::Instant::now();
        assert!(matches!(next(&mut parts).await, Err(Fault::SenderStalled(STALL))));
        assert_eq!(asked.elapsed(), STALL);
    }

    #[test]
    fn a_path_outside_is_refused_whatever_leads_there() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let (inside, outside) = (root.path().join("in"), root.path().join("out"));
        for folder in [&inside, &outside] {
            std::fs::create_dir(folder).expect("make a folder");
            std::fs::write(folder.join("f"), "x").expect("write a file");
        }
        std::os::unix::fs::symlink(outside.join("f"), inside.join("link")).expect("make a link");
        let open = |path: PathBuf| open_allowed(std::slice::from_ref(&inside), &path);
        assert!(open(inside.join("f")).is_ok_and(|(_, size)| size == Bytes(1)));
        for bad in [inside.join("link"), inside.join("../out/f"), outside.join("f"), inside.join("none")] {
            assert!(matches!(open(bad), Err(Fault::PathNotAllowed)));
        }
        assert!(matches!(open(inside.clone()), Err(Fault::Invalid(_))));
    }
}
