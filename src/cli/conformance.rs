//! `asynctls conformance`: whether adapters compute right, kernel by kernel.

mod export;
mod serve;
mod table;

use super::Outcome;
use super::interrupt::{self, Keeping};
use super::line::Line;
use super::progress::bar;
use super::terminal::{SCHEMA, note, print, print_json, tagged};
use super::vain::{self, Known};
use asynctls::conformance::{
    About, Choice, KNOWN, Report, Run, Settings, Trial, Worker, page, placed, standing, trials,
};
use asynctls::gpu::{Adapter, Disable, adapters};
use asynctls::{Error, Result, file};
use clap::Args;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Options of `asynctls conformance`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// Run the cases whose names have this part; * stands for any characters
    #[arg(long, value_name = "PART")]
    filter: Option<String>,
    /// Run the case of this name, as --list has it
    #[arg(long, value_name = "NAME", conflicts_with_all = ["filter", "quick"])]
    case: Option<String>,
    /// Run a sample, with each kernel and each variant of it
    #[arg(long)]
    quick: bool,
    /// List the names of the cases, and run none
    #[arg(long, conflicts_with_all = ["json", "report"])]
    list: bool,
    /// Write one JSON object to this file, or print it instead of a table
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
    /// Write a page that shows what failed, with all that it came from
    #[arg(long, value_name = "FILE.html", group = "page")]
    report: Option<PathBuf>,
    /// Show these reports, which --json wrote, beside this one on the page
    #[arg(long, value_name = "FILES", value_delimiter = ',', requires = "page")]
    compare: Vec<PathBuf>,
    /// Run nothing, but write a table of the reports that --compare names to this page, between its markers
    #[arg(long, value_name = "FILE.md", requires = "compare", group = "page", conflicts_with_all = ["filter", "case", "quick", "list", "json", "export"])]
    matrix: Option<PathBuf>,
    /// Run nothing, but write the cases to this folder, as files that run without this program (web/conformance)
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["json", "report", "list"])]
    export: Option<PathBuf>,
    /// Run what standard input asks for: the process that may hang or crash
    #[arg(long, hide = true, conflicts_with_all = ["filter", "case", "quick", "list", "json", "report", "export"])]
    worker: bool,
}

const EXAMPLES: &str = "\
Examples:
  asynctls conformance
  asynctls conformance --quick --report report.html
  asynctls conformance --adapter all --json report.json
  asynctls conformance --adapter 0 --filter top_k/*nan
  asynctls conformance --adapter nvidia --case stream/255-vec4@trusted
  asynctls conformance --quick --export web/conformance/bundle
  asynctls conformance --compare a.json,b.json --matrix docs/conformance.md

Exit codes: 0 where every case passed, cannot run here or is known to fail, 1 where one failed, always or now and then,\nor where an adapter was given up.";

/// Runs it.
pub fn run(options: &Options, line: &Line) -> Outcome<ExitCode> {
    vain::warn(line, &Known::default());
    let others: Vec<_> = options.compare.iter().map(|path| read(path)).collect::<Result<_>>()?;
    if let Some(path) = &options.matrix {
        return matrix(path, others);
    }
    let disable = Disable::from_env()?;
    let here = pollster::block_on(adapters());
    if options.worker {
        return serve::run(&Adapter::choose(&here, line.adapter())?, disable);
    }
    let choice =
        Choice { name: options.case.clone(), filter: options.filter.clone(), quick: options.quick };
    if let Some(folder) = &options.export {
        // Any will do: nothing runs.
        let adapter = Adapter::choose(&here, line.adapter())?;
        return export::run(folder, &adapter, &choice, settings(options));
    }
    let chosen = chosen(&here, line.adapter(), &choice, disable)?;
    if options.list {
        return list(&chosen);
    }
    // A run of minutes is not to end in a file that cannot be written.
    for path in options.json.iter().chain(&options.report).filter(|path| path.as_os_str() != "-") {
        writable(path)?;
    }
    let keeping = Keeping::new();
    let report = run_all(options, chosen, disable)?;
    drop(keeping);
    match &options.json {
        Some(path) if path.as_os_str() == "-" => print_json("conformance", &report)?,
        Some(path) => {
            print(&table::text(&report)?)?;
            file::replace(path, tagged("conformance", &report)?.as_bytes())?;
        }
        None => print(&table::text(&report)?)?,
    }
    if let Some(path) = &options.report {
        file::replace(path, page(&report, &others).as_bytes())?;
    }
    if interrupt::asked() {
        let ran: usize = report.adapters.iter().map(|adapter| adapter.rows.len()).sum();
        note(&format!("interrupted with {ran} of {} cases done", ran + report.not_run));
        return Ok(interrupt::exit_code());
    }
    let is_whole = report.adapters.iter().all(|adapter| adapter.gave_up.is_none());
    Ok(ExitCode::from(u8::from(!(report.summary.is_fine() && is_whole))))
}

fn matrix(path: &Path, reports: Vec<(String, Report)>) -> Outcome<ExitCode> {
    let page = std::fs::read_to_string(path)
        .map_err(|source| Error::Io { path: path.to_owned(), source })?;
    let reports: Vec<Report> = reports.into_iter().map(|(_, report)| report).collect();
    let page = placed(&page, &standing(&reports))
        .map_err(|problem| Error::argument("--matrix", path.display(), problem))?;
    file::replace(path, page.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// An adapter, by its number too, and its trials.
struct Chosen {
    number: usize,
    adapter: Adapter,
    trials: Vec<Trial>,
}

fn chosen(
    here: &[Adapter],
    request: Option<&str>,
    choice: &Choice,
    disable: Disable,
) -> Result<Vec<Chosen>> {
    let is_all = request == Some("all");
    let numbers: Vec<usize> = match is_all && !here.is_empty() {
        true => (0..here.len()).collect(),
        false => vec![Adapter::index(here, request.filter(|_| !is_all))?],
    };
    let of = |number: usize| {
        let adapter = here[number].clone();
        let trials = choice.of(trials(&adapter, disable));
        Chosen { number, adapter, trials }
    };
    let chosen: Vec<Chosen> = numbers.into_iter().map(of).collect();
    if chosen.iter().any(|one| !one.trials.is_empty()) {
        return Ok(chosen);
    }
    match (&choice.name, &choice.filter) {
        (None, None) => Ok(chosen),
        _ => Err(no_such_case(choice)),
    }
}

fn no_such_case(choice: &Choice) -> Error {
    let (option, value) = match (&choice.name, &choice.filter) {
        (Some(name), _) => ("--case", name.as_str()),
        (_, part) => ("--filter", part.as_deref().unwrap_or_default()),
    };
    let limit = "no case here has such a name; --list shows those that there are";
    Error::argument(option, value, limit)
}

fn settings(options: &Options) -> Settings {
    Settings { case: options.case.clone(), filter: options.filter.clone(), quick: options.quick }
}

fn list(chosen: &[Chosen]) -> Outcome<ExitCode> {
    let mut names: Vec<String> =
        chosen.iter().flat_map(|one| one.trials.iter().map(Trial::name)).collect();
    // Adapters share most of them.
    names.sort();
    names.dedup();
    print(&names.iter().map(|name| format!("{name}\n")).collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}

fn run_all(options: &Options, chosen: Vec<Chosen>, disable: Disable) -> Result<Report> {
    let total: usize = chosen.iter().map(|one| one.trials.len()).sum();
    let bar = bar("conformance cases", total as u64, false);
    let mut reports = Vec::new();
    for one in chosen {
        let about = About::new(&one.adapter, disable);
        let command = || worker(one.number);
        let run = Run { about, known: KNOWN, explain: options.report.is_some() };
        let mut workers: Vec<_> =
            (0..at_a_time(&one.adapter)).map(|_| Worker::new(&command)).collect();
        let report =
            run.trials(&mut workers, &one.trials, &interrupt::asked, &mut |_| bar.inc(1))?;
        reports.push(report);
    }
    let date = Some(jiff::Zoned::now().date().to_string());
    Ok(Report { date, ..Report::new(settings(options), reports) })
}

// Processes that run cases at a time. A GPU's driver compiles for most of a case, on one core; a rasteriser has them all already.
fn at_a_time(adapter: &Adapter) -> usize {
    if adapter.info.device_type == wgpu::DeviceType::Cpu
        || adapter.info.backend == wgpu::Backend::Gl
    {
        return 1;
    }
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    (cores / 2).clamp(1, 4)
}

// This program again, for the adapter of this number.
fn worker(number: usize) -> Command {
    let program = std::env::current_exe().unwrap_or_else(|_| "asynctls".into());
    let mut command = Command::new(program);
    command.args(["conformance", "--worker", "--adapter", &number.to_string()]);
    command
}

fn writable(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    if folder.is_dir() {
        return Ok(());
    }
    let source = std::io::ErrorKind::NotFound.into();
    Err(Error::Io { path: folder.to_owned(), source })
}

/// A report that `--json` wrote, and its name.
fn read(path: &Path) -> Result<(String, Report)> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| Error::Io { path: path.to_owned(), source })?;
    let refuse = |problem: String| Error::argument("--compare", path.display(), problem);
    let value: serde_json::Value = serde_json::from_str(&text)
        .map_err(|e| refuse(format!("a report that --json wrote is needed: {e}")))?;
    if value["command"] != "conformance" || value["schema"] != SCHEMA {
        let found = format!("{} of schema {}", value["command"], value["schema"]);
        return Err(refuse(format!("a report of schema {SCHEMA} is needed, and it is {found}")));
    }
    let report = serde_json::from_value(value)
        .map_err(|e| refuse(format!("a report that --json wrote is needed: {e}")))?;
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    Ok((name, report))
}
