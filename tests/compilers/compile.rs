//! How compilers are found and run.

use crate::server::{LIMIT, Server, Verdict};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

// What `tools/setup all-compilers` makes.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/.compilers");
// What runs the page's cases in Node, too.
const DAWN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/web/conformance/node_modules/webgpu");
const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/compilers");

/// How a compiler is run.
#[derive(Clone, Copy, PartialEq)]
pub enum How {
    /// Once for each file: a program and its arguments before the file.
    Each(&'static str, &'static [&'static str]),
    /// Once for many, whose paths it reads: one of DX12's, under Wine where this is no Windows.
    Dx12(&'static [&'static str]),
    /// The same, in Node.
    Dawn,
    /// It is only translated: there is no compiler that could be had.
    Nothing,
}

/// Why a compiler does not compile.
pub enum Absent {
    /// It is not here: what is missing, and what brings it.
    Missing(String),
    /// It is here and does not start.
    Broken(String),
}

fn tool(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// A program on the path.
fn program(name: &str) -> Option<PathBuf> {
    let folders = std::env::split_paths(&std::env::var_os("PATH")?).collect::<Vec<_>>();
    folders.into_iter().map(|folder| folder.join(name)).find(|path| path.is_file())
}

impl How {
    fn program(name: &str) -> Result<PathBuf, String> {
        program(name).ok_or_else(|| format!("{name} (tools/setup compilers)"))
    }

    /// The command that compiles, or what is missing.
    fn command(&self) -> Result<Command, String> {
        match self {
            Self::Each(name, arguments) => {
                let mut command = Command::new(Self::program(name)?);
                command.args(*arguments);
                Ok(command)
            }
            Self::Dx12(words) => {
                let compiler = tool("hlsl.exe");
                if !compiler.is_file() {
                    return Err("hlsl.exe (tools/setup all-compilers)".into());
                }
                let mut command = match cfg!(windows) {
                    true => Command::new(compiler),
                    false => {
                        // Debian keeps it off the path.
                        let kept = PathBuf::from("/usr/lib/wine/wine64");
                        let wine = program("wine64").or(kept.is_file().then_some(kept));
                        let mut command = Command::new(wine.ok_or("wine64")?);
                        command
                            .arg(compiler)
                            .env("WINEPREFIX", tool("wine"))
                            .env("WINEDEBUG", "-all");
                        // Microsoft's own rather than Wine's; no browser and no .NET are asked for.
                        command.env("WINEDLLOVERRIDES", "d3dcompiler_47=n;mscoree,mshtml=");
                        command
                    }
                };
                command.args(*words);
                Ok(command)
            }
            Self::Dawn => {
                let package = Path::new(DAWN);
                if !package.is_dir() {
                    return Err("npm's webgpu (tools/setup web)".into());
                }
                let mut command = Command::new(program("node").ok_or("node")?);
                command.arg(Path::new(TOOLS).join("wgsl.mjs")).arg(package);
                Ok(command)
            }
            Self::Nothing => Err("a compiler".into()),
        }
    }

    pub fn version(&self) -> Result<String, Absent> {
        match self {
            Self::Each(name, _) => {
                let program = Self::program(name).map_err(Absent::Missing)?;
                let said = Command::new(program).arg("--version").output();
                let said = said.map_err(|e| Absent::Broken(format!("{name}: {e}")))?;
                if !said.status.success() {
                    let messages = String::from_utf8_lossy(&said.stderr).into_owned();
                    return Err(Absent::Broken(format!("{name}: {}\n{messages}", said.status)));
                }
                let said = String::from_utf8_lossy(&said.stdout).into_owned();
                let mut words = said.split_whitespace();
                let numbered = words.find(|word| word.contains(|c: char| c.is_ascii_digit()));
                Ok(numbered.unwrap_or("unknown").to_owned())
            }
            Self::Dx12(_) | Self::Dawn => {
                let command = self.command().map_err(Absent::Missing)?;
                let server = Server::start(command).map_err(Absent::Broken)?;
                Ok(server.version.clone())
            }
            Self::Nothing => Ok("translated only".into()),
        }
    }
}

/// Compiles files, one after the other.
pub fn compile(how: How, paths: &[PathBuf]) -> Result<Vec<Verdict>, String> {
    let mut server = None;
    let mut verdicts = Vec::new();
    for path in paths {
        verdicts.push(match how {
            How::Nothing => Verdict { accepted: true, seconds: 0.0, messages: String::new() },
            How::Each(..) => {
                let began = Instant::now();
                let said = how.command()?.arg(path).output().map_err(|e| e.to_string())?;
                let messages = [&said.stdout[..], &said.stderr].concat();
                Verdict {
                    accepted: said.status.success(),
                    seconds: began.elapsed().as_secs_f64(),
                    messages: String::from_utf8_lossy(&messages).into_owned(),
                }
            }
            How::Dx12(_) | How::Dawn => {
                let mut running = match server.take() {
                    Some(running) => running,
                    None => Server::start(how.command()?)?,
                };
                match running.compile(path) {
                    Ok(verdict) => {
                        server = Some(running);
                        verdict
                    }
                    // A new one goes on behind the file at which it hung.
                    Err(problem) => Verdict {
                        accepted: false,
                        seconds: LIMIT.as_secs_f64(),
                        messages: format!(
                            "no answer, of which {} seconds are waited for: {problem}",
                            LIMIT.as_secs()
                        ),
                    },
                }
            }
        });
    }
    Ok(verdicts)
}
