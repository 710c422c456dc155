//! The first line of a file of results: what all of them depend on.

use super::json;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

/// The version of the format that this program reads and writes.
const VERSION: u64 = 1;

/// The length in bytes up to which the first line of a file is read, to see whether it is one of results.
pub(super) const LONGEST: usize = 1 << 20;

#[derive(Serialize, Deserialize)]
struct Header<S> {
    asynctls_results: u64,
    settings: S,
}

/// The first line for these settings.
pub(super) fn header(settings: &impl Serialize) -> Result<String> {
    json(&Header { asynctls_results: VERSION, settings })
}

/// Whether a file that begins with `line` holds results of the settings in `header`; else, what differs.
pub(super) fn check(path: &Path, line: &[u8], header: &str) -> Result<()> {
    let path = path.display();
    let foreign = |problem: serde_json::Error| {
        let limit = format!(
            "its first line should be JSON with its settings ({problem}); name another file"
        );
        Error::argument(path.to_string(), "not a file of results", limit)
    };
    let begun: Header<Value> = serde_json::from_slice(line).map_err(foreign)?;
    let now: Header<Value> = serde_json::from_str(header).map_err(foreign)?;
    if begun.asynctls_results != VERSION {
        let limit = format!("this program reads version {VERSION}; name another file");
        let what = format!("the format of the results in {path}");
        return Err(Error::argument(what, format!("version {}", begun.asynctls_results), limit));
    }
    difference("", &begun.settings, &now.settings).map_or(Ok(()), |(name, begun, now)| {
        let name = if name.is_empty() { "the value of all settings" } else { &name };
        let limit = format!(
            "the results in {path} were made with {begun}: go on with that, name another file, or delete this one"
        );
        Err(Error::argument(name, now, limit))
    })
}

/// The first setting that differs, by its path from the outermost, and both its values.
fn difference(name: &str, begun: &Value, now: &Value) -> Option<(String, String, String)> {
    if let (Value::Object(begun), Value::Object(now)) = (begun, now) {
        let names: BTreeSet<&String> = begun.keys().chain(now.keys()).collect();
        return names.into_iter().find_map(|inner| {
            let whole = if name.is_empty() { inner.clone() } else { format!("{name}.{inner}") };
            match (begun.get(inner), now.get(inner)) {
                (Some(begun), Some(now)) => difference(&whole, begun, now),
                (begun, now) => Some((whole, shown(begun), shown(now))),
            }
        });
    }
    (begun != now).then(|| (name.into(), shown(Some(begun)), shown(Some(now))))
}

fn shown(value: Option<&Value>) -> String {
    value.map_or("none".into(), Value::to_string)
}
