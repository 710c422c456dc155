//! `asynctls adapters`: what is here and what each adapter can do.

use super::Outcome;
use super::line::Line;
use super::terminal::{print, print_json, size, visible};
use super::vain::{self, Known};
use asynctls::gpu::{Adapter, Disable, Probe, adapters, probe};
use clap::Args;
use serde::Serialize;
use std::process::ExitCode;

/// Options of `asynctls adapters`.
#[derive(Args, Debug)]
pub struct Options {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// The object that `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    adapters: &'a [Probe],
}

/// Runs it.
pub fn run(options: &Options, line: &Line) -> Outcome<ExitCode> {
    vain::warn(line, &Known::default());
    let disable = Disable::from_env()?;
    let here = pollster::block_on(adapters());
    let probes = probe(&here, disable);
    if options.json {
        print_json("adapters", &Report { adapters: &probes })?;
        return Ok(ExitCode::SUCCESS);
    }
    if here.is_empty() {
        // The library words what is missing and what helps.
        Adapter::choose(&here, None)?;
    }
    print(&probes.iter().map(describe).collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}

fn describe(probe: &Probe) -> String {
    let mut text = format!("{}  {}:{}\n", probe.index, probe.backend, visible(&probe.name));
    let mut row = |what: &str, value: &str| text += &format!("     {what:<14}{}\n", visible(value));
    row("kind", &probe.kind);
    row("driver", &probe.driver);
    row(
        "memory",
        &match (probe.memory_bytes, probe.free_memory_bytes) {
            (Some(all), Some(free)) if free < all => format!("{}, {} free", size(all), size(free)),
            (Some(all), _) => size(all),
            (None, _) => "unknown".into(),
        },
    );
    row("bindings", &format!("up to {}", size(probe.max_binding_bytes)));
    row("buffers", &format!("up to {}", size(probe.max_buffer_bytes)));
    row("workgroup", &format!("{} of memory", size(probe.workgroup_bytes.into())));
    if let Some((least, most)) = probe.subgroup_sizes {
        row("subgroups", &format!("of {least} to {most}"));
    }
    if !probe.features.is_empty() {
        row("features", &probe.features.join(", "));
    }
    if let Some(tier) = &probe.tier {
        row("kernels", tier);
    }
    if let Some(why) = &probe.unusable {
        row("unusable", why);
    }
    text
}
