//! How engines are run: the values that a configuration may change, and their defaults.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::date::PromptDate;
use super::request::Sampling;
pub use crate::memory::need::{BadKvType, KvType};

/// A context of zero is "what the file declares, within reason"; llama.cpp's largest is a million.
pub const CONTEXT_TOKENS: RangeInclusive<u32> = 0..=1 << 20;

/// Context that a model begins with whose configuration names none, in tokens. It grows when a request needs more.
pub const DEFAULT_CONTEXT: u32 = 4096;

/// llama.cpp holds at most 256 sequences in one context; the engine runs half of them, since the other half
/// keeps prefixes.
pub const SEQUENCES: RangeInclusive<u32> = 1..=128;

/// Below 16 the step time is all overhead; above 4096 the compute buffer outgrows small models.
pub const MICRO_BATCH: RangeInclusive<u32> = 16..=4096;

/// ggml's own limit; zero is one per core.
pub const THREADS: RangeInclusive<u32> = 0..=512;

/// A queue of more than this is a wait of hours on any board.
pub const QUEUE: RangeInclusive<u32> = 0..=1024;

/// No model has more layers than llama.cpp takes, 512, and an output.
pub const MOST_GPU_LAYERS: u32 = 513;

/// How many of a model's layers a GPU computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GpuLayers {
    /// All where processor and GPU share one memory; as many as a card has room for; none without a GPU.
    #[default]
    Auto,
    /// So many, from the last one on, the output counted as one.
    Count(u32),
}

/// Why a text is not a [`GpuLayers`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is neither \"auto\" nor a number of layers, 0 to {MOST_GPU_LAYERS}")]
pub struct BadGpuLayers(pub String);

/// How engines are run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The engine executable. Absent: the best that came with the daemon.
    pub executable: Option<PathBuf>,
    /// What each model is loaded with, exceptions aside.
    pub load: LoadParams,
    /// The day that templates are told, exceptions aside.
    pub date: PromptDate,
    /// An engine with work to do that shows no sign of life, or no progress, for so long is replaced.
    pub heartbeat_timeout: Duration,
    /// A load that does not get on for so long is given up.
    pub load_stall: Duration,
    /// How long an engine has to end by itself.
    pub stop_grace: Duration,
    /// A tool loop whose client sends no results for so long is ended: it keeps its model in memory.
    pub reply_wait: Duration,
    /// How long a model stays in memory that nobody uses.
    pub keep_alive: KeepAlive,
}

/// How long a model stays in memory that nobody uses. One whose memory others need goes sooner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    /// Until its memory is needed.
    Forever,
    /// So long.
    For(Duration),
}

/// Why a text is not a [`KeepAlive`].
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is neither \"forever\" nor a time such as 10m: {source}")]
pub struct BadKeepAlive {
    text: String,
    source: humantime::DurationError,
}

/// What a model is loaded with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadParams {
    /// Tokens shared by all sequences, to begin with; 0: [`DEFAULT_CONTEXT`], or what the file declares if that is
    /// less.
    pub context_tokens: u32,
    /// Tokens that the context may grow to; 0: no more than `context_tokens` where that is set, else what the file
    /// declares.
    pub context_ceiling: u32,
    /// Whether weights are rearranged where the CPU's kernels like it.
    pub repack: bool,
    /// Whether the context may begin smaller where memory is short.
    pub may_shorten: bool,
    /// Whether keys and values may be kept in fewer bits where memory is short.
    pub may_quantize: bool,
    /// Answers written at the same time.
    pub sequences: u32,
    /// Most tokens in one step.
    pub micro_batch: u32,
    /// What the context is kept as.
    pub kv_type: KvType,
    /// Threads; 0: one per core.
    pub threads: u32,
    /// Wanted step time while another answer is being written.
    pub step_busy: Duration,
    /// Wanted step time of a prompt that is alone.
    pub step_alone: Duration,
    /// Requests that may wait for a sequence.
    pub queue: u32,
    /// An answer that its reader leaves lying for so long is ended.
    pub reader_stall: Duration,
    /// Chat format. Absent: by architecture and template.
    pub dialect: Option<String>,
    /// Whether tokens that a constraint forces are computed one by one instead of in one batch.
    pub forced_one_by_one: bool,
    /// Layers that a GPU computes.
    pub gpu_layers: GpuLayers,
}

/// What differs for one model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelOverrides {
    /// Instead of the engine table's.
    pub context_tokens: Option<u32>,
    /// Instead of the engine table's.
    pub context_ceiling: Option<u32>,
    /// Instead of the engine table's.
    pub repack: Option<bool>,
    /// Instead of the engine table's.
    pub may_shorten: Option<bool>,
    /// Instead of the engine table's.
    pub may_quantize: Option<bool>,
    /// Instead of the engine table's.
    pub sequences: Option<u32>,
    /// Instead of the engine table's.
    pub kv_type: Option<KvType>,
    /// Instead of the engine table's.
    pub threads: Option<u32>,
    /// Instead of the engine's own choice.
    pub dialect: Option<String>,
    /// Instead of the engine table's.
    pub forced_one_by_one: Option<bool>,
    /// Instead of the engine table's.
    pub gpu_layers: Option<GpuLayers>,
    /// Instead of the engine table's.
    pub date: Option<PromptDate>,
    /// Instead of the engine table's.
    pub keep_alive: Option<KeepAlive>,
    /// Never taken out of memory to make room for another, nor for being unused.
    pub pinned: bool,
    /// Loaded when the daemon starts.
    pub preload: bool,
    /// What a request does not say, before the defaults of all models.
    pub sampling: Sampling,
}

/// What somebody wants a model loaded with, whatever the configuration says; until it is unloaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Explicit {
    /// Exactly so many tokens of context.
    pub context_tokens: Option<u32>,
    /// The context is kept as this.
    pub kv_type: Option<KvType>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            executable: None,
            load: LoadParams::default(),
            date: PromptDate::default(),
            // The slowest board's longest step is 2 s; a busy SD card may stop everything for 20.
            heartbeat_timeout: Duration::from_secs(30),
            // An SD card reads 5 GB in about two minutes, and then warms up.
            load_stall: Duration::from_secs(300),
            // Giving back memory of several GB takes a second or two.
            stop_grace: Duration::from_secs(3),
            // A person who is asked for consent, or a tool that waits for something slow.
            reply_wait: Duration::from_secs(600),
            // A board that is not short of memory loses nothing by it, and a load takes minutes.
            keep_alive: KeepAlive::Forever,
        }
    }
}

impl Default for LoadParams {
    fn default() -> Self {
        Self {
            context_tokens: 0,
            context_ceiling: 0,
            repack: true,
            may_shorten: true,
            may_quantize: true,
            sequences: 8,
            // Twice the speed of 64 on boards with wide units, and a compute buffer of tens of MB.
            micro_batch: 256,
            kv_type: KvType::F16,
            threads: 0,
            step_busy: Duration::from_millis(250),
            step_alone: Duration::from_secs(2),
            queue: 32,
            reader_stall: Duration::from_secs(60),
            dialect: None,
            forced_one_by_one: false,
            gpu_layers: GpuLayers::Auto,
        }
    }
}

impl LoadParams {
    /// These with one model's exceptions.
    pub fn with(&self, exceptions: &ModelOverrides) -> Self {
        let ModelOverrides {
            context_tokens,
            context_ceiling,
            repack,
            may_shorten,
            may_quantize,
            sequences,
            kv_type,
            threads,
            dialect,
            forced_one_by_one,
            gpu_layers,
            date: _,
            keep_alive: _,
            pinned: _,
            preload: _,
            sampling: _,
        } = exceptions;
        Self {
            context_tokens: context_tokens.unwrap_or(self.context_tokens),
            context_ceiling: context_ceiling.unwrap_or(self.context_ceiling),
            repack: repack.unwrap_or(self.repack),
            may_shorten: may_shorten.unwrap_or(self.may_shorten),
            may_quantize: may_quantize.unwrap_or(self.may_quantize),
            sequences: sequences.unwrap_or(self.sequences),
            kv_type: kv_type.unwrap_or(self.kv_type),
            threads: threads.unwrap_or(self.threads),
            dialect: dialect.clone().or_else(|| self.dialect.clone()),
            forced_one_by_one: forced_one_by_one.unwrap_or(self.forced_one_by_one),
            gpu_layers: gpu_layers.unwrap_or(self.gpu_layers),
            ..self.clone()
        }
    }

    /// These as somebody wants them for now.
    pub fn as_wanted(&self, explicit: &Explicit) -> Self {
        let Explicit { context_tokens, kv_type } = *explicit;
        Self {
            context_tokens: context_tokens.unwrap_or(self.context_tokens),
            // Exactly so many.
            context_ceiling: if context_tokens.is_some() { 0 } else { self.context_ceiling },
            may_shorten: self.may_shorten && context_tokens.is_none(),
            kv_type: kv_type.unwrap_or(self.kv_type),
            may_quantize: self.may_quantize && kv_type.is_none(),
            ..self.clone()
        }
    }

    /// Tokens that a context begins with and may grow to, of a model that declares so many (0: none).
    pub fn context(&self, declared: u32) -> (u32, u32) {
        let declared = if declared == 0 { DEFAULT_CONTEXT } else { declared };
        let start = match self.context_tokens {
            0 => declared.min(DEFAULT_CONTEXT),
            tokens => tokens,
        };
        let ceiling = match self.context_ceiling {
            0 if self.context_tokens == 0 => declared,
            0 => start,
            tokens => tokens,
        };
        (start, ceiling.max(start))
    }
}

impl fmt::Display for GpuLayers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Count(layers) => write!(f, "{layers}"),
        }
    }
}

impl FromStr for GpuLayers {
    type Err = BadGpuLayers;

    fn from_str(text: &str) -> Result<Self, BadGpuLayers> {
        match text.parse() {
            Ok(layers) if layers <= MOST_GPU_LAYERS => Ok(Self::Count(layers)),
            _ if text == "auto" => Ok(Self::Auto),
            _ => Err(BadGpuLayers(text.to_owned())),
        }
    }
}

impl fmt::Display for KeepAlive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forever => f.write_str("forever"),
            Self::For(time) => write!(f, "{}", humantime::format_duration(*time)),
        }
    }
}

impl FromStr for KeepAlive {
    type Err = BadKeepAlive;

    fn from_str(text: &str) -> Result<Self, BadKeepAlive> {
        match humantime::parse_duration(text) {
            _ if text == "forever" => Ok(Self::Forever),
            Ok(time) => Ok(Self::For(time)),
            Err(source) => Err(BadKeepAlive { text: text.to_owned(), source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_for_a_gpu_are_a_number_or_left_to_the_engine() {
        assert_eq!("auto".parse(), Ok(GpuLayers::Auto));
        assert_eq!("0".parse(), Ok(GpuLayers::Count(0)));
        assert_eq!("513".parse(), Ok(GpuLayers::Count(513)));
        for bad in ["514", "-1", "all", ""] {
            assert_eq!(bad.parse::<GpuLayers>(), Err(BadGpuLayers(bad.to_owned())));
        }
        let one = ModelOverrides { gpu_layers: Some(GpuLayers::Count(3)), ..ModelOverrides::default() };
        assert_eq!(LoadParams::default().with(&one).gpu_layers, GpuLayers::Count(3));
    }

    #[test]
    fn a_context_grows_where_nobody_fixed_it() {
        let params = |context_tokens, context_ceiling| LoadParams {
            context_tokens,
            context_ceiling,
            ..LoadParams::default()
        };
        assert_eq!(params(0, 0).context(32_768), (4096, 32_768));
        assert_eq!(params(0, 0).context(2048), (2048, 2048));
        assert_eq!(params(0, 0).context(0), (4096, 4096), "a file that declares nothing");
        assert_eq!(params(8192, 0).context(32_768), (8192, 8192));
        assert_eq!(params(1024, 131_072).context(32_768), (1024, 131_072));
        let explicit = Explicit { context_tokens: Some(512), kv_type: Some(KvType::Q8_0) };
        let wanted = params(0, 9000).as_wanted(&explicit);
        assert_eq!((wanted.context(32_768), wanted.kv_type), ((512, 512), KvType::Q8_0));
        assert!(!wanted.may_shorten && !wanted.may_quantize);
    }
}
