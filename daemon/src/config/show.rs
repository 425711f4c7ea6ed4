//! The effective configuration as keys and values, for the log and for telling two configurations apart.

use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use super::Config;
use crate::access::{Grantee, Token};
use crate::engines::request::Sampling;
use crate::engines::{LoadParams, ModelOverrides};

/// Every key outside of models, in the order of the file, and whether a change takes effect without a restart.
#[cfg(test)]
pub(super) const KEYS: [(&str, bool); 60] = [
    ("listen", false),
    ("state_dir", false),
    ("import_dirs", true),
    ("drain_deadline", true),
    ("memory.budget", true),
    ("memory.reserve", true),
    ("engine.executable", false),
    ("engine.context_tokens", true),
    ("engine.context_ceiling", true),
    ("engine.repack", true),
    ("engine.may_shorten", true),
    ("engine.may_quantize", true),
    ("engine.sequences", true),
    ("engine.micro_batch", true),
    ("engine.kv_type", true),
    ("engine.threads", true),
    ("engine.step_busy", true),
    ("engine.step_alone", true),
    ("engine.queue", true),
    ("engine.reader_stall", true),
    ("engine.forced_one_by_one", true),
    ("engine.gpu_layers", true),
    ("engine.date", true),
    ("engine.keep_alive", true),
    ("engine.reply_wait", true),
    ("engine.heartbeat_timeout", true),
    ("engine.load_stall", true),
    ("engine.stop_grace", true),
    ("sampling.temperature", true),
    ("sampling.top_p", true),
    ("sampling.top_k", true),
    ("sampling.min_p", true),
    ("sampling.repeat_penalty", true),
    ("sampling.presence_penalty", true),
    ("sampling.frequency_penalty", true),
    ("sampling.penalty_window", true),
    ("access.use", true),
    ("access.manage", true),
    ("access.tokens", true),
    ("tls.certificate", true),
    ("tls.key", true),
    ("tls.client_ca", true),
    ("metrics.listen", false),
    ("log.level", true),
    ("log.target", false),
    ("models.context_tokens", true),
    ("models.context_ceiling", true),
    ("models.repack", true),
    ("models.may_shorten", true),
    ("models.may_quantize", true),
    ("models.sequences", true),
    ("models.kv_type", true),
    ("models.threads", true),
    ("models.dialect", true),
    ("models.forced_one_by_one", true),
    ("models.gpu_layers", true),
    ("models.date", true),
    ("models.keep_alive", true),
    ("models.pinned", true),
    ("models.preload", true),
];

/// What an absent value is shown as.
const ABSENT: &str = "-";

/// Digits of a token's digest that are shown: enough to tell two apart.
const DIGITS: usize = 8;

/// Keys and their values, in the order of the file.
pub(super) type Entries = Vec<(String, String)>;

impl Config {
    /// Every key with its value. Tokens are shown by name, role and the first
    /// digits of their digest.
    pub fn entries(&self) -> Entries {
        let Self {
            listen,
            state_dir,
            import_dirs,
            drain_deadline,
            memory,
            engine,
            sampling,
            models,
            access,
            tls,
            metrics,
            log,
        } = self;
        let mut to = Entries::new();
        put(&mut to, "listen", list(listen));
        put(&mut to, "state_dir", state_dir.display());
        put(&mut to, "import_dirs", list(import_dirs.iter().map(|path| path.display())));
        put(&mut to, "drain_deadline", time(*drain_deadline));
        put(&mut to, "memory.budget", memory.budget.map_or("auto".to_owned(), |bytes| bytes.to_string()));
        put(&mut to, "memory.reserve", memory.reserve);
        put(&mut to, "engine.executable", path(engine.executable.as_deref()));
        load(&mut to, &engine.load);
        put(&mut to, "engine.date", engine.date);
        put(&mut to, "engine.keep_alive", engine.keep_alive);
        put(&mut to, "engine.reply_wait", time(engine.reply_wait));
        put(&mut to, "engine.heartbeat_timeout", time(engine.heartbeat_timeout));
        put(&mut to, "engine.load_stall", time(engine.load_stall));
        put(&mut to, "engine.stop_grace", time(engine.stop_grace));
        sampling_under(&mut to, "", sampling);
        put(&mut to, "access.use", list::<&Grantee>(&access.using));
        put(&mut to, "access.manage", list::<&Grantee>(&access.managing));
        put(
            &mut to,
            "access.tokens",
            list(access.tokens.iter().map(|Token { name, role, digest }| {
                format!("{name}: {role}, {}", &digest.to_string()[..DIGITS])
            })),
        );
        put(&mut to, "tls.certificate", path(tls.as_ref().map(|tls| tls.certificate.as_path())));
        put(&mut to, "tls.key", path(tls.as_ref().map(|tls| tls.key.as_path())));
        put(&mut to, "tls.client_ca", path(tls.as_ref().and_then(|tls| tls.client_ca.as_deref())));
        put(&mut to, "metrics.listen", option(metrics.listen.as_ref()));
        put(&mut to, "log.level", &log.level);
        put(&mut to, "log.target", log.target);
        for (name, overrides) in models {
            model(&mut to, &format!("models.{:?}.", name.as_str()), overrides);
        }
        to
    }
}

fn load(to: &mut Entries, params: &LoadParams) {
    let LoadParams {
        context_tokens,
        context_ceiling,
        repack,
        may_shorten,
        may_quantize,
        sequences,
        micro_batch,
        kv_type,
        threads,
        step_busy,
        step_alone,
        queue,
        reader_stall,
        dialect: _,
        forced_one_by_one,
        gpu_layers,
    } = params;
    put(to, "engine.context_tokens", context_tokens);
    put(to, "engine.context_ceiling", context_ceiling);
    put(to, "engine.repack", repack);
    put(to, "engine.may_shorten", may_shorten);
    put(to, "engine.may_quantize", may_quantize);
    put(to, "engine.sequences", sequences);
    put(to, "engine.micro_batch", micro_batch);
    put(to, "engine.kv_type", kv_type);
    put(to, "engine.threads", threads);
    put(to, "engine.step_busy", time(*step_busy));
    put(to, "engine.step_alone", time(*step_alone));
    put(to, "engine.queue", queue);
    put(to, "engine.reader_stall", time(*reader_stall));
    put(to, "engine.forced_one_by_one", forced_one_by_one);
    put(to, "engine.gpu_layers", gpu_layers);
}

/// Only what differs: a model's table says little.
fn model(to: &mut Entries, prefix: &str, overrides: &ModelOverrides) {
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
        date,
        keep_alive,
        pinned,
        preload,
        sampling,
    } = overrides;
    let mut all = Entries::new();
    put(&mut all, "context_tokens", option(context_tokens.as_ref()));
    put(&mut all, "context_ceiling", option(context_ceiling.as_ref()));
    put(&mut all, "repack", option(repack.as_ref()));
    put(&mut all, "may_shorten", option(may_shorten.as_ref()));
    put(&mut all, "may_quantize", option(may_quantize.as_ref()));
    put(&mut all, "sequences", option(sequences.as_ref()));
    put(&mut all, "kv_type", option(kv_type.as_ref()));
    put(&mut all, "threads", option(threads.as_ref()));
    put(&mut all, "dialect", option(dialect.as_ref()));
    put(&mut all, "forced_one_by_one", option(forced_one_by_one.as_ref()));
    put(&mut all, "gpu_layers", option(gpu_layers.as_ref()));
    put(&mut all, "date", option(date.as_ref()));
    put(&mut all, "keep_alive", option(keep_alive.as_ref()));
    put(&mut all, "pinned", option(pinned.then_some(&true)));
    put(&mut all, "preload", option(preload.then_some(&true)));
    sampling_under(&mut all, "", sampling);
    let said = all.into_iter().filter(|(_, value)| value != ABSENT);
    to.extend(said.map(|(key, value)| (format!("{prefix}{key}"), value)));
}

fn sampling_under(to: &mut Entries, prefix: &str, sampling: &Sampling) {
    let Sampling {
        temperature,
        top_p,
        top_k,
        min_p,
        repeat_penalty,
        presence_penalty,
        frequency_penalty,
        penalty_window,
        logit_bias: _,
    } = sampling;
    let decimals = [
        ("temperature", temperature),
        ("top_p", top_p),
        ("min_p", min_p),
        ("repeat_penalty", repeat_penalty),
        ("presence_penalty", presence_penalty),
        ("frequency_penalty", frequency_penalty),
    ];
    for (name, value) in decimals {
        put(to, &format!("{prefix}sampling.{name}"), option(value.as_ref()));
    }
    for (name, value) in [("top_k", top_k), ("penalty_window", penalty_window)] {
        put(to, &format!("{prefix}sampling.{name}"), option(value.as_ref()));
    }
}

fn put(to: &mut Entries, key: &str, value: impl Display) {
    to.push((key.to_owned(), value.to_string()));
}

fn time(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

fn option(value: Option<impl Display>) -> String {
    value.map_or(ABSENT.to_owned(), |value| value.to_string())
}

fn path(path: Option<&Path>) -> String {
    option(path.map(Path::display))
}

fn list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    format!("[{}]", items.join(", "))
}
