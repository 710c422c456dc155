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

// The older of DX12's compilers, and how the other one is had.
const FXC: &str = "FXC, slow and without subgroups; DXC is used where dxcompiler.dll (1.8.2502 or newer) is beside the program: \
     https://github.com/microsoft/DirectXShaderCompiler/releases";

fn describe(probe: &Probe) -> String {
    let mut text = format!("{}  {}:{}\n", probe.index, probe.backend, visible(&probe.name));
    let mut row = |what: &str, value: &str| text += &format!("     {what:<14}{}\n", visible(value));
    row("kind", &probe.kind);
    row("driver", &probe.driver);
    match probe.compiler.as_deref() {
        Some("fxc") => row("compiler", FXC),
        Some(other) => row("compiler", &other.to_uppercase()),
        None => {}
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiler_of_dx12_stands_there_with_what_brings_a_better_one() {
        let with = |compiler: Option<&str>| {
            describe(&Probe {
                index: 0,
                name: "card".into(),
                backend: "dx12".into(),
                kind: "discrete".into(),
                driver: "1".into(),
                compiler: compiler.map(Into::into),
                subgroup_sizes: None,
                tier: None,
                unusable: None,
                max_binding_bytes: 0,
                max_buffer_bytes: 0,
                workgroup_bytes: 0,
                memory_bytes: None,
                free_memory_bytes: None,
                features: Vec::new(),
            })
        };
        assert!(with(Some("fxc")).contains("compiler      FXC, slow and without subgroups; DXC"));
        assert!(with(Some("dxc")).contains("compiler      DXC\n"));
        assert!(!with(None).contains("compiler"));
    }
}
