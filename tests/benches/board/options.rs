//! What to measure, from the command line.

use std::path::PathBuf;
use std::time::Duration;

/// What this run of the program is for.
#[derive(Debug)]
pub(crate) enum Task {
    /// Keep a core busy until killed.
    Spin,
    /// Measure.
    Measure(Options),
}

/// What to measure.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The model file; `None`: a random one is made.
    pub(crate) model: Option<PathBuf>,
    /// How often everything is measured.
    pub(crate) rounds: usize,
    /// Where JSON and chart go.
    pub(crate) out: PathBuf,
    /// How long the idle daemon is watched.
    pub(crate) idle: Duration,
    /// Sizes of the single measurements.
    pub(crate) sizes: Sizes,
    /// Parts of a round that are left out.
    pub(crate) skip: Vec<String>,
}

/// How much each measurement computes, in tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Written by one client.
    pub(crate) decode: u32,
    /// Written by each of several clients.
    pub(crate) clients: u32,
    /// Written beside busy threads.
    pub(crate) busy: u32,
    /// Of a long prompt.
    pub(crate) prompt: u32,
    /// Of the context.
    pub(crate) context: u32,
}

const USUAL: Sizes = Sizes { decode: 32, clients: 40, busy: 12, prompt: 512, context: 4096 };
const QUICK: Sizes = Sizes { decode: 16, clients: 24, busy: 8, prompt: 128, context: 1024 };

impl Options {
    /// Whether a part of a round is measured.
    pub(crate) fn wants(&self, part: &str) -> bool {
        !self.skip.iter().any(|skipped| skipped == part)
    }

    pub(crate) fn from_arguments(arguments: impl Iterator<Item = String>) -> Task {
        let mut arguments = arguments;
        let mut options = Self {
            model: None,
            rounds: 5,
            out: PathBuf::from("target/bench"),
            idle: Duration::from_secs(60),
            sizes: USUAL,
            skip: Vec::new(),
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().unwrap_or_else(|| panic!("{argument} needs a value"));
            match argument.as_str() {
                busy_flag if busy_flag == super::busy::FLAG => return Task::Spin,
                "--rounds" => options.rounds = value().parse().expect("a number of rounds"),
                "--out" => options.out = PathBuf::from(value()),
                "--idle-seconds" => {
                    options.idle = Duration::from_secs(value().parse().expect("a number of seconds"));
                }
                "--skip" => options.skip.extend(value().split(',').map(str::to_owned)),
                "--quick" => {
                    options.rounds = 2;
                    options.idle = Duration::from_secs(20);
                    options.sizes = QUICK;
                }
                // Cargo says this to every benchmark.
                "--bench" => {}
                other if other.starts_with('-') => panic!("{other} is not an option"),
                model => options.model = Some(PathBuf::from(model)),
            }
        }
        Task::Measure(options)
    }
}
