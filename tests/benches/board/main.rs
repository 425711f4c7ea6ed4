//! How fast Hearth is on this board, beside a bare llama.cpp loop in the same run.
//!
//! `make bench [MODEL=file.gguf]`, or the built program with `[MODEL] [--rounds N] [--quick] [--out FOLDER]
//! [--idle-seconds N]`. It prints a table and writes `board.json` and `board.svg`. Without a model it makes a
//! random one of half a billion weights.
//!
//! The two take turns, A B B A, and only one of them computes at a time; the other is loaded and waits. Machines
//! are shared and change their pace within seconds, so a share is the median of the rounds' own shares, and a
//! rate the median of the rates. The bare loop is `daemon/engine/examples/bare.rs`: it says what it does per
//! token. Both draw with the same samplers and settings, and their threads wait for each other in the same way,
//! since libgomp's own way is no better when quiet and much worse beside others; beside busy threads both ways
//! of the bare loop are given.
//!
//! - *Decode* is what a client sees: tokens between its first and its last delta, over that time.
//! - *Prefill* is the tokens of the prompt over the time from asking to the first delta, so rendering,
//!   tokenizing and both links are in it.
//! - *Fair share* is what the scheduler owes: with `C` cores, `T` engine threads and `B` busy ones of the same
//!   nice value a thread gets `C / (T + B)` of a core instead of `min(1, C / T)`. With two cores and two
//!   engine threads that is a half beside two busy threads and a quarter beside six.
//! - *CPU time* is `/proc/PID/task/*/schedstat`, summed over threads, over the tokens of the decode rounds. It
//!   counts the engine whole, and the front and the client (this program) each by itself.
//! - *Idle* is a daemon of its own that was never asked anything: `VmRSS`, and
//!   `voluntary_ctxt_switches` summed over threads. It has a service manager that wants its watchdog patted.

mod bare;
mod busy;
mod chart;
mod hearth;
mod idle;
mod options;
mod procfs;
mod report;
mod rounds;
mod stats;

use options::{Options, Task};

fn say(line: &str) {
    #[expect(clippy::print_stdout, reason = "the table is the result")]
    {
        println!("{line}");
    }
}

fn main() {
    match Options::from_arguments(std::env::args().skip(1)) {
        Task::Spin => busy::spin(),
        Task::Measure(options) => measure(&options),
    }
}

fn measure(options: &Options) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let report = runtime.block_on(rounds::run(options));
    say(&report.table());
    std::fs::create_dir_all(&options.out).expect("the output folder");
    std::fs::write(options.out.join("board.json"), report.json()).expect("write the figures");
    chart::draw(&report, &options.out.join("board.svg")).expect("draw the chart");
    say(&format!("\nFigures: {0}/board.json, chart: {0}/board.svg", options.out.display()));
}
