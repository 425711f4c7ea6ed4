//! What each model takes in memory: found out by an inspector, kept with the model's file, and corrected by what its
//! engines were seen to take on this board.

use std::env::consts::ARCH;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hearth_proto::BUILD_ID;
use serde::{Deserialize, Serialize};

use super::config::{Explicit, GpuLayers, LoadParams};
use super::inspect::{InspectError, Inspectors, Room};
use super::program::Program;
use super::registry::state::Options;
use crate::config::Config;
use crate::memory::need::{AtStart, Correction, Footprint, KvType, Point, Sizes, Weights, Wish};
use crate::store::{LookupError, Manifest, ModelRef, Store};
use crate::telemetry::chain::Chain;
use crate::units::{Bytes, Digest, ModelName};

/// Corrections that differ by less are not written: cards wear. In bytes.
const NEWS: u64 = 1 << 20;

/// What is to be loaded.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) model: ModelName,
    pub(super) file: PathBuf,
    pub(super) digest: Digest,
    /// The file's own window, in tokens; 0: it does not say.
    pub(super) declared: u32,
    pub(super) params: LoadParams,
}

/// What engines were seen to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Observed {
    /// Once loaded with weights that were rearranged, beyond what the inspector took, in bytes.
    at_start: i64,
    /// The same with weights that stay in their file.
    at_start_mapped: i64,
    /// The most beyond what was reserved, in bytes.
    in_use: u64,
    /// How long the last load took, in milliseconds.
    pub(super) load_ms: Option<u64>,
}

impl Observed {
    fn at_start(&self) -> AtStart {
        AtStart { repacked: self.at_start, mapped: self.at_start_mapped }
    }
}

/// A footprint as it lies on disk.
#[derive(Serialize, Deserialize)]
struct Stored {
    mapped: u64,
    repacked: Option<u64>,
    staging: u64,
    process: u64,
    process_sequences: u32,
    grammar: u64,
    vocabulary: u32,
    /// Tokens, sequences, micro batch, type, bytes of keys and values, bytes of compute buffers.
    contexts: Vec<(u32, u32, u32, String, u64, u64)>,
}

impl Target {
    pub(super) fn of(
        store: &Store,
        config: &Config,
        model: &ModelName,
        explicit: Option<&Explicit>,
    ) -> Result<Self, LookupError> {
        let manifest = store.get(&ModelRef::from(model.clone()))?;
        Ok(Self::from_manifest(store, config, &manifest, explicit))
    }

    pub(super) fn from_manifest(
        store: &Store,
        config: &Config,
        manifest: &Manifest,
        explicit: Option<&Explicit>,
    ) -> Self {
        let digest = manifest.weights().digest;
        let params = config.load_params(&manifest.name);
        let params = explicit.map(|explicit| params.as_wanted(explicit)).unwrap_or(params);
        Self {
            model: manifest.name.clone(),
            file: store.blob_path(&digest),
            digest,
            declared: manifest.facts.context_length,
            params,
        }
    }

    /// The ways in which it may be loaded, the best `skip` left out.
    pub(super) async fn options(
        &self,
        store: &Store,
        inspectors: &Inspectors,
        room: Room,
        skip: usize,
    ) -> Result<Arc<Options>, InspectError> {
        let (start, ceiling) = self.params.context(self.declared);
        let sizes = Sizes {
            tokens: start,
            sequences: self.params.sequences,
            micro_batch: self.params.micro_batch,
            kv_type: self.params.kv_type,
        };
        let (mut footprint, observed) = self.footprint(store, inspectors, room, &sizes).await?;
        footprint.correction = Correction { at_start: observed.at_start(), in_use: Bytes(observed.in_use) };
        let wish = Wish {
            sizes,
            may_shorten: self.params.may_shorten,
            may_quantize: self.params.may_quantize,
            repack: self.params.repack,
        };
        let choices = footprint.choices(&wish, skip);
        if choices.is_empty() {
            let words = format!("llama.cpp makes no context of it with {} keys and values", sizes.kv_type);
            return Err(InspectError::BadModel(words));
        }
        Ok(Arc::new(Options { choices, footprint, wish, ceiling, load_ms: observed.load_ms }))
    }

    async fn footprint(
        &self,
        store: &Store,
        inspectors: &Inspectors,
        room: Room,
        sizes: &Sizes,
    ) -> Result<(Footprint, Observed), InspectError> {
        let (from, digest, program) = (store.clone(), self.digest, Arc::clone(inspectors.program()));
        let gpu_layers = self.params.gpu_layers;
        let look = move || {
            let known = known(&from, &program, gpu_layers, &digest);
            (known, observed(&from, &program, gpu_layers, &digest))
        };
        let known = tokio::task::spawn_blocking(look).await;
        // Only a runtime that ends cuts such work off.
        let (known, observed) = known.unwrap_or_default();
        if let Some(footprint) = known.filter(|footprint| covers(footprint, sizes)) {
            return Ok((footprint, observed));
        }
        let inspection = inspectors.inspect(&self.file, self.model.as_str(), &self.params, room).await?;
        let (to, digest, model, kept) =
            (store.clone(), self.digest, self.model.clone(), inspection.footprint.clone());
        let program = Arc::clone(inspectors.program());
        let keep = move || keep(&to, &program, gpu_layers, &digest, &model, &kept);
        tokio::task::spawn_blocking(keep).await.ok();
        Ok((inspection.footprint, observed))
    }
}

/// Whether these sizes are among those that were looked at, or lie between them.
fn covers(footprint: &Footprint, sizes: &Sizes) -> bool {
    let mut of_kind = footprint.points.iter().filter(|point| {
        point.sizes.sequences == sizes.sequences && point.sizes.micro_batch == sizes.micro_batch
    });
    // A type that llama.cpp refuses for this model is not there, however often one looks.
    of_kind.any(|point| point.sizes.tokens >= sizes.tokens)
}

/// Keeps a footprint for the next load. Losing it costs an inspection, so a failure is only logged.
pub(super) fn keep(
    store: &Store,
    program: &Program,
    gpu_layers: GpuLayers,
    digest: &Digest,
    model: &ModelName,
    footprint: &Footprint,
) {
    let Footprint { weights, process, process_sequences, grammar, vocabulary, points, correction: _ } =
        footprint;
    let contexts = points.iter().map(|Point { sizes, kv, compute }| {
        let Sizes { tokens, sequences, micro_batch, kv_type } = *sizes;
        (tokens, sequences, micro_batch, kv_type.to_string(), kv.0, compute.0)
    });
    let stored = Stored {
        mapped: weights.mapped.0,
        repacked: weights.repacked.map(|bytes| bytes.0),
        staging: weights.staging.0,
        process: process.0,
        process_sequences: *process_sequences,
        grammar: grammar.0,
        vocabulary: *vocabulary,
        contexts: contexts.collect(),
    };
    let value = serde_json::to_value(stored).expect("plain numbers and words have a JSON form");
    if let Err(error) = store.save_inspection(digest, &footprint_key(program, gpu_layers), value) {
        tracing::warn!(error = %Chain(&error), model.name = %model, "Could not keep an estimate");
    }
}

fn known(store: &Store, program: &Program, gpu_layers: GpuLayers, digest: &Digest) -> Option<Footprint> {
    let stored: Stored =
        serde_json::from_value(store.inspection(digest, &footprint_key(program, gpu_layers))?).ok()?;
    let points = stored.contexts.into_iter().map(|(tokens, sequences, micro_batch, kv_type, kv, compute)| {
        let kv_type: KvType = kv_type.parse().ok()?;
        let sizes = Sizes { tokens, sequences, micro_batch, kv_type };
        Some(Point { sizes, kv: Bytes(kv), compute: Bytes(compute) })
    });
    Some(Footprint {
        weights: Weights {
            mapped: Bytes(stored.mapped),
            repacked: stored.repacked.map(Bytes),
            staging: Bytes(stored.staging),
        },
        process: Bytes(stored.process),
        process_sequences: stored.process_sequences,
        grammar: Bytes(stored.grammar),
        vocabulary: stored.vocabulary,
        points: points.collect::<Option<_>>()?,
        correction: Correction::default(),
    })
}

/// What was seen of engines of a model before.
pub(super) fn observed(store: &Store, program: &Program, gpu_layers: GpuLayers, digest: &Digest) -> Observed {
    let value = store.inspection(digest, &observed_key(program, gpu_layers));
    value.and_then(|value| serde_json::from_value(value).ok()).unwrap_or_default()
}

/// Remembers how long a load took, and what the process took beyond its inspector, with weights that are mapped or not.
pub(super) fn keep_load(
    store: &Store,
    program: &Program,
    gpu_layers: GpuLayers,
    digest: &Digest,
    model: &ModelName,
    time: Duration,
    (mapped, bytes): (bool, i64),
) {
    let known = observed(store, program, gpu_layers, digest);
    let load_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    // Both vary a little; a write for each load is not worth it.
    let is_news = known.load_ms.is_none_or(|known| known.abs_diff(load_ms) > known / 8)
        || known.at_start().of(mapped).abs_diff(bytes) > NEWS;
    if is_news {
        let AtStart { repacked, mapped: at_start_mapped } = known.at_start().with(mapped, bytes);
        save(
            store,
            program,
            gpu_layers,
            digest,
            model,
            Observed { load_ms: Some(load_ms), at_start: repacked, at_start_mapped, ..known },
        );
    }
}

/// Remembers the most that an engine took beyond what was reserved for it.
pub(super) fn keep_use(
    store: &Store,
    program: &Program,
    gpu_layers: GpuLayers,
    digest: &Digest,
    model: &ModelName,
    in_use: Bytes,
) {
    let known = observed(store, program, gpu_layers, digest);
    if in_use.0 > known.in_use {
        save(store, program, gpu_layers, digest, model, Observed { in_use: in_use.0, ..known });
    }
}

fn save(
    store: &Store,
    program: &Program,
    gpu_layers: GpuLayers,
    digest: &Digest,
    model: &ModelName,
    observed: Observed,
) {
    let value = serde_json::to_value(observed).expect("numbers have a JSON form");
    if let Err(error) = store.save_inspection(digest, &observed_key(program, gpu_layers), value) {
        tracing::warn!(error = %Chain(&error), model.name = %model, "Could not keep what was measured");
    }
}

/// Another processor may have other kernels, which take other memory; and so may a GPU.
fn footprint_key(program: &Program, gpu_layers: GpuLayers) -> String {
    format!("footprint {}", key(program, gpu_layers))
}

fn observed_key(program: &Program, gpu_layers: GpuLayers) -> String {
    format!("observed {}", key(program, gpu_layers))
}

fn key(program: &Program, gpu_layers: GpuLayers) -> String {
    format!("{BUILD_ID} {ARCH} {} {gpu_layers}", program.key)
}
