//! Shader assembly: typed constants, strict includes, a line map back to the original files, and validation.
//!
//! `//!include lib/x.wgsl` pastes a file; `//!include <slot>` pastes the file that the caller chose for that slot, which
//! is how variants (weight formats, subgroup reductions, epilogues) are data rather than conditional text. A file that
//! is unknown, included twice or that includes itself, and a slot that nobody fills or nobody uses, are errors. A slot of a
//! word stands in a line, `$slot(usual)`: the usual word, where the caller chose no other. `enable`
//! directives go to the top, where WGSL wants them. `//!repeat` repeats lines (`repeat.rs`), and `//!words StepRow R` writes
//! constants that name the words of one of [`STEP`]'s structs: `R_POSITION` and so on, and `R_WORDS`, how many there are.

use super::reflect::{Reflected, reflect};
use super::repeat::expand;
use super::shader_files::FILES;
use crate::contract::STEP;
use crate::{Error, Result};

/// A constant prepended to a shader as a typed WGSL `const`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Constant {
    /// A `u32`.
    U32(u32),
    /// An `f32`, by its bits, so that specifications can be compared and hashed.
    F32(u32),
    /// A `bool`.
    Bool(bool),
}

impl From<u32> for Constant {
    fn from(value: u32) -> Self {
        Self::U32(value)
    }
}

impl From<f32> for Constant {
    fn from(value: f32) -> Self {
        Self::F32(value.to_bits())
    }
}

impl From<bool> for Constant {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

/// A shader to assemble: a kernel's file, the files that fill its slots, and its constants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ShaderSpec {
    /// The kernel's file under `shaders/`.
    pub file: &'static str,
    /// Slot name and the file, or the word, that fills it.
    pub slots: Vec<(&'static str, &'static str)>,
    /// Constants, in the order in which they are declared.
    pub constants: Vec<(&'static str, Constant)>,
    /// Files besides this crate's: name and text.
    pub sources: &'static [(&'static str, &'static str)],
}

impl ShaderSpec {
    /// A kernel without slots and constants.
    pub fn new(file: &'static str) -> Self {
        Self { file, slots: Vec::new(), constants: Vec::new(), sources: &[] }
    }

    /// Finds files among these too, the kernel's own among them.
    #[must_use]
    pub fn sources(mut self, sources: &'static [(&'static str, &'static str)]) -> Self {
        self.sources = sources;
        self
    }

    /// The text of a file.
    fn source(&self, file: &str) -> Option<(&'static str, &'static str)> {
        self.sources.iter().chain(FILES).find(|(name, _)| *name == file).copied()
    }

    /// Whether the kernel's file itself includes this.
    pub(super) fn includes(&self, target: &str) -> bool {
        let is_it = |line: &str| line.strip_prefix(INCLUDE).is_some_and(|t| t.trim() == target);
        self.source(self.file).is_some_and(|(_, source)| source.lines().any(is_it))
    }

    /// Fills a slot, with a file or with a word.
    #[must_use]
    pub fn slot(mut self, slot: &'static str, file: &'static str) -> Self {
        self.slots.push((slot, file));
        self
    }

    /// Declares a constant.
    #[must_use]
    pub fn constant(mut self, name: &'static str, value: impl Into<Constant>) -> Self {
        self.constants.push((name, value.into()));
        self
    }
}

/// A shader as one WGSL text, with the way back to the files it came from.
#[derive(Debug)]
pub struct Assembled {
    /// Plain WGSL that any compiler accepts.
    pub text: String,
    /// File and line (from 1) of each line of `text`.
    lines: Vec<(&'static str, u32)>,
    /// The validated module.
    pub(super) module: naga::Module,
}

const CONSTANTS: &str = "constants";
const INCLUDE: &str = "//!include ";

/// Assembles and validates a kernel.
///
/// # Errors
/// [`Error::Shader`] with the original file and line: a broken include, or what naga's parser or validator refuses.
pub fn assemble(spec: &ShaderSpec) -> Result<Assembled> {
    let mut pasted = Pasted::default();
    for (i, (name, value)) in spec.constants.iter().enumerate() {
        let line = match value {
            Constant::U32(v) => format!("const {name}: u32 = {v}u;\n"),
            // Hexadecimal bits would be exact too, but a bitcast is no constant expression everywhere.
            Constant::F32(bits) => format!("const {name}: f32 = {:e}f;\n", f32::from_bits(*bits)),
            Constant::Bool(v) => format!("const {name}: bool = {v};\n"),
        };
        pasted.body.push((line, (CONSTANTS, i as u32 + 1)));
    }
    paste(spec.file, spec, (CONSTANTS, 0), &mut pasted)?;
    if let Some((slot, _)) = spec.slots.iter().find(|(slot, _)| !pasted.used.contains(slot)) {
        return Err(shader_error(spec.file, 1, format!("nothing includes the slot <{slot}>")));
    }
    let (text, lines): (Vec<String>, Vec<_>) =
        pasted.directives.into_iter().chain(pasted.body).unzip();
    let text = text.concat();
    let place = |line: u32| {
        lines.get(line.saturating_sub(1) as usize).copied().unwrap_or((spec.file, line))
    };
    let module = naga::front::wgsl::parse_str(&text).map_err(|e| {
        let (file, line) = place(e.location(&text).map_or(0, |l| l.line_number));
        shader_error(file, line, e.message().to_string())
    })?;
    naga::valid::Validator::new(
        naga::valid::ValidationFlags::all(),
        naga::valid::Capabilities::all(),
    )
    .validate(&module)
    .map_err(|e| {
        let (file, line) = place(e.location(&text).map_or(0, |l| l.line_number));
        let mut message = e.as_inner().to_string();
        let mut source = std::error::Error::source(e.as_inner());
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        shader_error(file, line, message)
    })?;
    Ok(Assembled { text, lines, module })
}

impl Assembled {
    /// The original file and line of a line of [`Assembled::text`], from 1.
    pub fn origin(&self, line: u32) -> Option<(&'static str, u32)> {
        self.lines.get(line.checked_sub(1)? as usize).copied()
    }

    /// Its bindings, in ascending order of their numbers.
    pub fn bindings(&self) -> Vec<Reflected> {
        reflect(&self.module)
    }

    /// Lanes of a workgroup, in each dimension.
    pub fn workgroup_size(&self) -> [u32; 3] {
        self.module.entry_points.first().map_or([1; 3], |entry| entry.workgroup_size)
    }

    /// Bytes of workgroup memory that the kernel declares, each variable from a multiple of 16 on.
    pub fn workgroup_bytes(&self) -> u32 {
        let variables = self.module.global_variables.iter().map(|(_, variable)| variable);
        variables
            .filter(|variable| variable.space == naga::AddressSpace::WorkGroup)
            .map(|variable| self.module.types[variable.ty].inner.size(self.module.to_ctx()))
            .map(|bytes| bytes.next_multiple_of(16))
            .sum()
    }
}

pub(super) fn shader_error(file: &str, line: u32, message: String) -> Error {
    Error::Shader { file: file.to_string(), line, message }
}

/// A file and a line in it, from 1.
type Place = (&'static str, u32);

/// The text pasted so far: lines with the places they come from.
#[derive(Default)]
struct Pasted {
    directives: Vec<(String, Place)>,
    body: Vec<(String, Place)>,
    included: Vec<&'static str>,
    used: Vec<&'static str>,
}

fn paste(file: &str, spec: &ShaderSpec, from: Place, pasted: &mut Pasted) -> Result<()> {
    let (name, source) = spec
        .source(file)
        .ok_or_else(|| shader_error(from.0, from.1, format!("no shader file {file}")))?;
    if pasted.included.contains(&name) {
        return Err(shader_error(from.0, from.1, format!("{name} is included twice")));
    }
    pasted.included.push(name);
    for (line, number) in expand(name, source, &spec.constants)? {
        let here = (name, number);
        if let Some(words) = line.strip_prefix("//!words ") {
            let constants = word_constants(words.trim())
                .ok_or_else(|| shader_error(name, number, format!("no struct for {words}")))?;
            pasted.body.extend(constants.into_iter().map(|constant| (constant, here)));
            continue;
        }
        let Some(target) = line.strip_prefix(INCLUDE) else {
            let line = with_words(&line, spec, &mut pasted.used)
                .ok_or_else(|| shader_error(name, number, format!("no word in {line}")))?;
            let to =
                if line.starts_with("enable ") { &mut pasted.directives } else { &mut pasted.body };
            to.push((line + "\n", here));
            continue;
        };
        let target = target.trim();
        let target = match target.strip_prefix('<').and_then(|t| t.strip_suffix('>')) {
            None => target,
            Some(slot) => {
                let (slot, file) =
                    spec.slots.iter().find(|(name, _)| *name == slot).ok_or_else(|| {
                        shader_error(here.0, here.1, format!("no file for the slot <{slot}>"))
                    })?;
                pasted.used.push(slot);
                file
            }
        };
        paste(target, spec, here, pasted)?;
    }
    Ok(())
}

// A line with its slots of words filled.
fn with_words(line: &str, spec: &ShaderSpec, used: &mut Vec<&'static str>) -> Option<String> {
    let mut parts = line.split('$');
    let mut text = parts.next()?.to_owned();
    for part in parts {
        let (slot, rest) = part.split_once('(')?;
        let (usual, rest) = rest.split_once(')')?;
        let filled = spec.slots.iter().find(|(name, _)| *name == slot);
        used.extend(filled.map(|(name, _)| name));
        text += filled.map_or(usual, |(_, word)| word);
        text += rest;
    }
    Some(text)
}

// The constants of `StepRow R`.
fn word_constants(words: &str) -> Option<Vec<String>> {
    let (name, prefix) = words.split_once(' ')?;
    let (_, members) = STEP.iter().find(|(known, _)| *known == name)?;
    let constant = |name: &str, value: u32| format!("const {prefix}_{name}: u32 = {value}u;\n");
    let of_members = members.iter().map(|m| constant(&m.name.to_uppercase(), m.offset / 4));
    Some(of_members.chain([constant("WORDS", members.len() as u32)]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(spec: &ShaderSpec) -> String {
        assemble(spec).expect_err("must not assemble").to_string()
    }

    #[test]
    fn unknown_files_and_slots_are_named_with_their_place() {
        assert_eq!(
            error(&ShaderSpec::new("nowhere.wgsl")),
            "shader constants:0: no shader file nowhere.wgsl"
        );
        let spec = ShaderSpec::new("model/embed.wgsl");
        assert!(error(&spec).contains("no file for the slot <weights>"));
        let spec = spec
            .slot("weights", "lib/weights_q4_1.wgsl")
            .slot("reduce", "lib/reduce_workgroup.wgsl");
        assert!(error(&spec).contains("nothing includes the slot <reduce>"));
    }

    #[test]
    fn a_file_included_twice_is_an_error() {
        let spec = ShaderSpec::new("model/embed.wgsl").slot("weights", "lib/step.wgsl");
        assert!(error(&spec).contains("lib/step.wgsl is included twice"), "{}", error(&spec));
    }

    #[test]
    fn a_compile_error_names_the_original_file_and_line() {
        // lib/budget.wgsl needs BLOCK, which is not declared here.
        let spec = ShaderSpec::new("select/top_k.wgsl")
            .slot("items", "lib/items_blocks.wgsl")
            .slot("rank", "lib/rank_plain.wgsl")
            .constant("LANES_REVERSED", false)
            .constant("AT_ONCE", 1)
            .constant("LEAVES", true)
            .constant("LANES", 64)
            .constant("KV_HEADS", 1)
            .constant("GROUP", 1);
        let message = error(&spec);
        assert!(message.starts_with("shader lib/budget.wgsl:5:"), "{message}");
        assert!(message.contains("BLOCK"), "{message}");
    }

    const OWN: &[(&str, &str)] = &[
        (
            "own.wgsl",
            "//!include own_step.wgsl\n//!words StepTile T\n//!repeat 2 i\nconst A{i}: u32 = T_ROWS;\nconst B{i}: u32 = MISSING;\n//!end",
        ),
        ("own_step.wgsl", "//!words StepRows R"),
        (
            "right.wgsl",
            "//!words StepTile T\n//!repeat 2 i\nconst A{i}: u32 = T_ROWS + {i}u;\n//!end",
        ),
    ];

    #[test]
    fn files_of_a_callers_own_are_assembled_as_others_are() {
        let assembled = assemble(&ShaderSpec::new("right.wgsl").sources(OWN)).unwrap();
        let constants =
            "const T_FIRST_ROW: u32 = 0u;\nconst T_ROWS: u32 = 1u;\nconst T_WORDS: u32 = 2u;\n";
        let lines = "const A0: u32 = T_ROWS + 0u;\nconst A1: u32 = T_ROWS + 1u;\n";
        assert_eq!(assembled.text, format!("{constants}{lines}"));
        assert_eq!(assembled.origin(3), Some(("right.wgsl", 1)));
        assert_eq!(assembled.origin(5), Some(("right.wgsl", 3)));
        let spec = ShaderSpec::new("own.wgsl").sources(OWN);
        assert_eq!(error(&spec), "shader own_step.wgsl:1: no struct for StepRows R");
    }

    #[test]
    fn a_slot_of_a_word_has_its_usual_one_where_it_is_not_filled() {
        const WORDS: &[(&str, &str)] = &[
            ("words.wgsl", "const A: u32 = 1u;\nconst B: u32 = $first(A) + $second(A);"),
            ("broken.wgsl", "const A: u32 = $first;"),
        ];
        let spec = ShaderSpec::new("words.wgsl").sources(WORDS);
        let text = |spec: &ShaderSpec| assemble(spec).unwrap().text;
        assert!(text(&spec).ends_with("const B: u32 = A + A;\n"));
        assert!(text(&spec.clone().slot("second", "7u")).ends_with("const B: u32 = A + 7u;\n"));
        assert!(error(&spec.slot("third", "7u")).contains("nothing includes the slot <third>"));
        let broken = ShaderSpec::new("broken.wgsl").sources(WORDS);
        assert_eq!(error(&broken), "shader broken.wgsl:1: no word in const A: u32 = $first;");
    }

    #[test]
    fn an_error_in_a_repeated_line_names_the_line_that_is_repeated() {
        const FIXED: &[(&str, &str)] = &[OWN[0], ("own_step.wgsl", "const C: u32 = 0u;")];
        let spec = ShaderSpec::new("own.wgsl").sources(FIXED);
        assert!(error(&spec).starts_with("shader own.wgsl:5: "), "{}", error(&spec));
        assert!(error(&spec).contains("MISSING"), "{}", error(&spec));
    }

    #[test]
    fn every_embedded_file_exists_on_disk_and_the_reverse() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
        let mut on_disk = Vec::new();
        for folder in std::fs::read_dir(&root).unwrap() {
            for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
                let path = file.unwrap().path();
                on_disk
                    .push(path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/"));
            }
        }
        on_disk.sort();
        let embedded: Vec<_> = FILES.iter().map(|(name, _)| name.to_string()).collect();
        assert_eq!(on_disk, embedded);
    }
}
