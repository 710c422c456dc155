//! How a file says that positions turn: a table of every key of either format, and what is made of those that are read.
//!
//! GGUF keys mean what llama.cpp makes of them (`llama-model.cpp`, `llama-context.cpp`, `rope_yarn` of ggml), keys of
//! `config.json` what transformers does (`modeling_rope_utils.py`). A key that is in no table is refused: it could change
//! every number.

use super::CONTEXT;
use super::description::{self, Description, Key, float, key, number, wrong};
use crate::model::gguf::Gguf;
use crate::model::json_file::short;
use crate::model::rope::{Rope, RopeScaling};
use crate::{Error, Result};
use serde_json::{Map, Value};

/// The use of a key.
#[derive(Clone, Copy)]
enum Use {
    /// It is read, by the scaling that it belongs to: none other has use for it.
    Read,
    /// It changes nothing.
    Idle,
    /// It changes nothing where it has this value, and no other is supported.
    Only(f64),
    /// The same, but without YaRN no value changes anything.
    OnlyInYarn(f64),
    /// Its meaning is not supported.
    Refused,
}

type Table = &'static [(&'static str, Use)];

/// Keys below `{architecture}.rope.` in a GGUF file.
const GGUF: Table = &[
    ("freq_base", Use::Read),
    // Compared with the head dimension.
    ("dimension_count", Use::Read),
    // No type means linear.
    ("scaling.type", Use::Read),
    // 0 means 1.
    ("scaling.factor", Use::Read),
    // The older name of scaling.factor, which comes first.
    ("scale_linear", Use::Read),
    // Where it is missing, the file's context.
    ("scaling.original_context_length", Use::Read),
    // Multiplies the magnitude, of whatever scaling.
    ("scaling.attn_factor", Use::Read),
    ("scaling.yarn_beta_fast", Use::Read),
    ("scaling.yarn_beta_slow", Use::Read),
    ("scaling.finetuned", Use::Idle),
    // How much of YaRN there is.
    ("scaling.yarn_ext_factor", Use::OnlyInYarn(1.0)),
    // Converters put config.json's attention_factor there. llama.cpp works the magnitude out and does not look: see `yarn`.
    ("scaling.yarn_attn_factor", Use::Read),
    // Read for other architectures only, where it changes the magnitude.
    ("scaling.yarn_log_multiplier", Use::OnlyInYarn(0.0)),
    // Changes the base.
    ("scaling.alpha", Use::Refused),
    // Positions in images.
    ("dimension_sections", Use::Refused),
    // Layers with a window.
    ("freq_base_swa", Use::Refused),
    ("dimension_count_swa", Use::Refused),
];

/// Keys in `rope_parameters` or `rope_scaling` of `config.json`.
const JSON: Table = &[
    ("rope_theta", Use::Read),
    ("rope_type", Use::Read),
    // The older name of rope_type, which comes first.
    ("type", Use::Read),
    // YaRN's is the quotient of the contexts where it is null.
    ("factor", Use::Read),
    // Where it is missing, max_position_embeddings; beside rope_parameters it comes first.
    ("original_max_position_embeddings", Use::Read),
    ("low_freq_factor", Use::Read),
    ("high_freq_factor", Use::Read),
    // YaRN's magnitude, in the place of what would be worked out.
    ("attention_factor", Use::Read),
    // Only together, and only without attention_factor.
    ("mscale", Use::Read),
    ("mscale_all_dim", Use::Read),
    // 0 means the default.
    ("beta_fast", Use::Read),
    ("beta_slow", Use::Read),
    ("truncate", Use::Read),
    ("finetuned", Use::Idle),
    ("partial_rotary_factor", Use::Only(1.0)),
    // Of longrope.
    ("short_factor", Use::Refused),
    ("long_factor", Use::Refused),
    ("short_mscale", Use::Refused),
    ("long_mscale", Use::Refused),
    // Positions in images.
    ("mrope_section", Use::Refused),
    ("mrope_interleaved", Use::Refused),
];

/// Tensors of a GGUF file that divide frequencies by how long the context is.
const LONG_FACTORS: [&str; 2] = ["rope_factors_long.weight", "rope_factors_short.weight"];

/// The scaling as a file describes it.
pub(super) struct Turning {
    pub(super) rope: Rope,
    /// The longest context with the scaling.
    pub(super) context: u32,
    /// The longest context without it.
    pub(super) plain_context: u32,
}

/// Reads how `dims` dimensions turn.
pub(super) fn read(description: Description<'_>, dims: u32, interleaved: bool) -> Result<Turning> {
    let stated = description.size(CONTEXT)?;
    let (base, found) = match description {
        Description::Gguf { file, architecture } => (
            description.opt_positive(key("rope.freq_base", ""))?,
            gguf(description, file, architecture, dims, stated)?,
        ),
        Description::Json { .. } => json(description, stated)?,
    };
    let Found { scaling, magnitude, original } = found;
    // Writers disagree on whether the file's context has been lengthened: Qwen3's config.json keeps 40,960 beside a factor
    // of 4 over 32,768, others have the product there. The longer of the two is what the scaling is for.
    let original = original.unwrap_or(stated);
    let context = scaling.context(original).max(stated);
    let is_lengthened = stated >= scaling.context(original) && scaling.factor() > 1.0;
    let plain_context = if is_lengthened { original } else { stated };
    let rope = Rope { base: base.unwrap_or(10_000.0), dims, interleaved, scaling, magnitude };
    Ok(Turning { rope, context, plain_context })
}

struct Found {
    scaling: RopeScaling,
    /// A factor of queries and keys besides the scaling's own.
    magnitude: f32,
    /// The first training's context, where that is told.
    original: Option<u32>,
}

fn gguf(
    description: Description<'_>,
    file: &Gguf,
    architecture: &str,
    dims: u32,
    stated: u32,
) -> Result<Found> {
    const FACTOR: Key = key("rope.scaling.factor", "");
    const OLD_FACTOR: Key = key("rope.scale_linear", "");
    let kind = file.opt_str(&description.name(key("rope.scaling.type", "")))?;
    let prefix = format!("{architecture}.rope.");
    for (name, value) in file.metadata() {
        if let Some(own) = name.strip_prefix(&prefix) {
            let number = value.as_f32().map(f64::from);
            check((GGUF, kind), (own, name), number, || value.to_string())?;
        }
    }
    if let Some(name) = LONG_FACTORS.into_iter().find(|name| file.tensor(name).is_some()) {
        return Err(Error::Model(format!(
            "tensor {name} is not supported: RoPE scaling longrope is not implemented"
        )));
    }
    let magnitude = description.opt_positive(key("rope.scaling.attn_factor", ""))?.unwrap_or(1.0);
    let original = description.opt_size(key("rope.scaling.original_context_length", ""))?;
    let named = if file.value(&description.name(FACTOR)).is_some() { FACTOR } else { OLD_FACTOR };
    let factor = match description.opt_float(named)? {
        Some(0.0) => None,
        Some(value) => Some(description::positive(&description.name(named), value)?),
        None => None,
    };
    let scaling = match kind {
        Some("none") => RopeScaling::None,
        None | Some("linear") => linear(factor.unwrap_or(1.0)),
        Some("yarn") => {
            let factor = factor.ok_or_else(|| description.missing(FACTOR))?;
            let beta = |name, default: f32| {
                description.opt_positive(key(name, "")).map(|value| value.unwrap_or(default))
            };
            let yarn = RopeScaling::Yarn {
                factor,
                original: original.unwrap_or(stated),
                beta_fast: beta("rope.scaling.yarn_beta_fast", RopeScaling::BETA_FAST)?,
                beta_slow: beta("rope.scaling.yarn_beta_slow", RopeScaling::BETA_SLOW)?,
                magnitude: None,
                whole: true,
            };
            // The key changes nothing where it says 1, that there is nothing besides YaRN's own, or YaRN's own.
            const OWN: Key = key("rope.scaling.yarn_attn_factor", "");
            let own = yarn.magnitude() as f32;
            match description.opt_float(OWN)? {
                Some(value) if value != 1.0 && (value - own).abs() > 1e-4 => {
                    return Err(Error::Model(format!(
                        "{} is {value}, but only 1 and YaRN's own magnitude, {own}, are supported",
                        description.name(OWN)
                    )));
                }
                _ => yarn,
            }
        }
        Some(other) => return Err(unknown(other)),
    };
    let scaling = match divisors(file, dims)? {
        None => scaling,
        Some(list) if scaling == RopeScaling::None => RopeScaling::Divisors(list),
        Some(_) => {
            return Err(Error::Model(format!(
                "tensor rope_freqs.weight beside RoPE scaling {scaling} is not supported"
            )));
        }
    };
    Ok(Found { scaling, magnitude, original })
}

// Llama 3's divisors of the frequencies, which a GGUF file has as a tensor.
fn divisors(file: &Gguf, dims: u32) -> Result<Option<Vec<f32>>> {
    let Some(info) = file.tensor("rope_freqs.weight") else { return Ok(None) };
    if info.shape != [u64::from(dims / 2)] {
        return Err(Error::Model(format!(
            "tensor rope_freqs.weight has shape {:?}, but [{}] is needed",
            info.shape,
            dims / 2
        )));
    }
    crate::formats::dequantise(info.kind, file.bytes(info)).map(Some)
}

fn json(description: Description<'_>, stated: u32) -> Result<(Option<f32>, Found)> {
    const PARTIAL: &str = "partial_rotary_factor";
    if let Some(value) = description.json(PARTIAL) {
        let name = "partial_rotary_factor of config.json";
        check((JSON, None), (PARTIAL, name), value.as_f64(), || value.to_string())?;
    }
    let empty = Map::new();
    let (owner, keys) = parameters(description)?.unwrap_or(("rope_parameters", &empty));
    let keys = Keys { owner, keys };
    let kind = keys.kind()?;
    for (own, value) in keys.keys.iter().filter(|(_, value)| !value.is_null()) {
        let name = format!("{} in {owner} of config.json", short(own));
        check((JSON, kind), (own, &name), value.as_f64(), || value.to_string())?;
    }
    let base = match keys.opt_positive("rope_theta")? {
        Some(base) => Some(base),
        None => description.opt_positive(key("", "rope_theta"))?,
    };
    const ORIGINAL: &str = "original_max_position_embeddings";
    let original = match description.opt_size(key("", ORIGINAL))? {
        Some(beside) => Some(beside),
        None => keys
            .get(ORIGINAL)
            .map(|value| description::sized(ORIGINAL, number(ORIGINAL, value)?))
            .transpose()?,
    };
    let scaling = match kind {
        None if keys.get("factor").is_some_and(|factor| factor.as_f64() != Some(1.0)) => {
            return Err(Error::Model(format!(
                "{owner} of config.json has a factor and no rope_type, which is needed beside it"
            )));
        }
        None | Some("default") => RopeScaling::None,
        Some("linear") => linear(keys.given("factor")?),
        Some("llama3") => {
            let (low, high) = (keys.given("low_freq_factor")?, keys.given("high_freq_factor")?);
            if low >= high {
                return Err(Error::Model(format!(
                    "low_freq_factor of config.json is {low}, but it must be below high_freq_factor, {high}"
                )));
            }
            let original = original.unwrap_or(stated);
            RopeScaling::Llama3 { factor: keys.given("factor")?, low, high, original }
        }
        Some("yarn") => keys.yarn(original.unwrap_or(stated), stated)?,
        Some(other) => return Err(unknown(other)),
    };
    Ok((base, Found { scaling, magnitude: 1.0, original }))
}

// transformers 5 writes rope_parameters, with the base in it; older ones rope_scaling, which comes first where both are.
fn parameters(description: Description<'_>) -> Result<Option<(&'static str, &Map<String, Value>)>> {
    for name in ["rope_scaling", "rope_parameters"] {
        let Some(value) = description.json(name) else { continue };
        let object = value.as_object().ok_or_else(|| wrong(name, value, "an object"))?;
        if !object.is_empty() {
            return Ok(Some((name, object)));
        }
    }
    Ok(None)
}

/// The keys of one object.
struct Keys<'a> {
    owner: &'static str,
    keys: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.keys.get(name).filter(|value| !value.is_null())
    }

    fn opt_positive(&self, name: &str) -> Result<Option<f32>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        description::positive(name, float(name, value)?).map(Some)
    }

    // Where 0 is as good as nothing.
    fn opt_nonzero(&self, name: &str) -> Result<Option<f32>> {
        match self.get(name) {
            Some(value) if value.as_f64() == Some(0.0) => Ok(None),
            _ => self.opt_positive(name),
        }
    }

    fn given(&self, name: &str) -> Result<f32> {
        self.opt_positive(name)?.ok_or_else(|| {
            Error::Model(format!("{name} is missing from {} in config.json", self.owner))
        })
    }

    fn kind(&self) -> Result<Option<&'a str>> {
        self.get("rope_type")
            .or_else(|| self.get("type"))
            .map(|kind| kind.as_str().ok_or_else(|| wrong("rope_type", kind, "a string")))
            .transpose()
    }

    fn yarn(&self, original: u32, stated: u32) -> Result<RopeScaling> {
        let factor = match self.keys.get("factor") {
            Some(Value::Null) => stated as f32 / original as f32,
            _ => self.given("factor")?,
        };
        let magnitude = match self.opt_positive("attention_factor")? {
            Some(magnitude) => Some(magnitude),
            None => match (self.opt_nonzero("mscale")?, self.opt_nonzero("mscale_all_dim")?) {
                (Some(above), Some(below)) => {
                    let [above, below] = [above, below]
                        .map(|share| RopeScaling::yarn_magnitude(factor, share.into()));
                    Some((above / below) as f32)
                }
                _ => None,
            },
        };
        let whole = match self.get("truncate") {
            None => true,
            Some(Value::Bool(flag)) => *flag,
            Some(other) => return Err(wrong("truncate", other, "true or false")),
        };
        Ok(RopeScaling::Yarn {
            factor,
            original,
            beta_fast: self.opt_nonzero("beta_fast")?.unwrap_or(RopeScaling::BETA_FAST),
            beta_slow: self.opt_nonzero("beta_slow")?.unwrap_or(RopeScaling::BETA_SLOW),
            magnitude,
            whole,
        })
    }
}

// A factor of 1 is no scaling.
fn linear(factor: f32) -> RopeScaling {
    if factor == 1.0 { RopeScaling::None } else { RopeScaling::Linear(factor) }
}

// Refuses a key whose value would change what is not implemented, by its name in the table or as errors call it.
fn check(
    (table, kind): (Table, Option<&str>),
    (own, name): (&str, &str),
    number: Option<f64>,
    value: impl Fn() -> String,
) -> Result<()> {
    let problem = match table.iter().find(|row| row.0 == own).map(|row| row.1) {
        Some(Use::Read | Use::Idle) => return Ok(()),
        Some(Use::OnlyInYarn(_)) if kind != Some("yarn") => return Ok(()),
        Some(Use::Only(only) | Use::OnlyInYarn(only)) if number == Some(only) => return Ok(()),
        Some(Use::Only(only) | Use::OnlyInYarn(only)) => format!("only {only} is supported"),
        Some(Use::Refused) => "what it does to positions is not supported".into(),
        None => "what it does to positions is not known".into(),
    };
    let name = name.escape_debug();
    Err(Error::Model(format!("{name} is {}, but {problem}", short(&value()))))
}

fn unknown(name: &str) -> Error {
    let name = short(name);
    Error::Model(format!("RoPE scaling {name} is not supported; none, linear, llama3 and yarn are"))
}
