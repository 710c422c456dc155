//! Lines that are written once and repeated: `//!repeat COUNT i` or `//!repeat FIRST..COUNT i`, the lines, and `//!end`.
//!
//! The numbers are literals or constants of the specification. In the lines, for each i from FIRST (or 0) to COUNT - 1:
//!
//! * `{4*i+1}` is that number, of terms that are literals, the variable or their product;
//! * `{+4*i}` is ` + 4u`, and nothing where that would be zero;
//! * `{+i*LANES}` is ` + 2u * LANES`, one of them without its factor, and `{i*LANES+}` the same before another term;
//! * `{xyzw[i]}` is the letter of that number.
//!
//! Values in registers are written so: an array that a loop indexes lives in memory where the driver does not unroll the
//! loop. Repeats may hold repeats.

use super::shader::{Constant, shader_error};
use crate::Result;

/// A line and its number in the file, from 1.
pub(super) type Line = (String, u32);

/// The lines of a file with what is repeated written out.
pub(super) fn expand(
    file: &'static str,
    source: &str,
    constants: &[(&'static str, Constant)],
) -> Result<Vec<Line>> {
    let lines: Vec<Line> = source.lines().map(str::to_owned).zip(1..).collect();
    let mut expanded = Vec::with_capacity(lines.len());
    let repeats = Repeats { file, constants };
    let rest = repeats.expand(&lines, None, &mut expanded)?;
    match rest.first() {
        None => Ok(expanded),
        Some((_, line)) => Err(shader_error(file, *line, "nothing is repeated before it".into())),
    }
}

struct Repeats<'a> {
    file: &'static str,
    constants: &'a [(&'static str, Constant)],
}

impl Repeats<'_> {
    // Expands up to the end of the lines, or of the repeat that begins at line `of`; the lines after that.
    fn expand<'l>(
        &self,
        mut lines: &'l [Line],
        of: Option<u32>,
        to: &mut Vec<Line>,
    ) -> Result<&'l [Line]> {
        while let Some(((line, number), after)) = lines.split_first() {
            let directive = line.trim();
            if directive == "//!end" {
                return Ok(if of.is_some() { after } else { lines });
            }
            lines = after;
            let Some(repeat) = directive.strip_prefix("//!repeat ") else {
                to.push((line.clone(), *number));
                continue;
            };
            let (range, variable) = self.range(repeat, *number)?;
            let mut body = Vec::new();
            lines = self.expand(after, Some(*number), &mut body)?;
            for i in range {
                to.extend(body.iter().map(|(line, at)| (substitute(line, variable, i), *at)));
            }
        }
        match of {
            None => Ok(lines),
            Some(line) => Err(shader_error(self.file, line, "a repeat without an end".into())),
        }
    }

    fn range<'r>(&self, repeat: &'r str, line: u32) -> Result<(std::ops::Range<u32>, &'r str)> {
        let parsed = repeat.split_once(' ').and_then(|(range, variable)| {
            let (first, count) = range.split_once("..").unwrap_or(("0", range));
            Some((self.number(first)?..self.number(count)?, variable.trim()))
        });
        parsed.ok_or_else(|| {
            let message = format!("a repeat is COUNT or FIRST..COUNT and a name, not {repeat}");
            shader_error(self.file, line, message)
        })
    }

    fn number(&self, text: &str) -> Option<u32> {
        if let Ok(number) = text.parse() {
            return Some(number);
        }
        let constant = self.constants.iter().find(|(name, _)| *name == text)?;
        if let Constant::U32(value) = constant.1 { Some(value) } else { None }
    }
}

// The line with what its braces say of the variable. Braces around anything else are WGSL.
fn substitute(line: &str, variable: &str, i: u32) -> String {
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(open) = rest.find('{') {
        let (before, from) = rest.split_at(open);
        text.push_str(before);
        let value = from[1..].split_once('}').and_then(|(expression, after)| {
            Some((evaluate(expression.trim(), variable, i)?, after))
        });
        match value {
            Some((value, after)) => {
                text.push_str(&value);
                rest = after;
            }
            None => {
                text.push('{');
                rest = &from[1..];
            }
        }
    }
    text.push_str(rest);
    text
}

fn evaluate(expression: &str, variable: &str, i: u32) -> Option<String> {
    if let Some((letters, index)) = expression.strip_suffix(']').and_then(|e| e.split_once('[')) {
        let index = sum(index, variable, i)?;
        return letters.chars().nth(index as usize).map(String::from);
    }
    let (before, after) = (expression.strip_prefix('+'), expression.strip_suffix('+'));
    let Some(term) = before.or(after) else {
        return sum(expression, variable, i).map(|value| value.to_string());
    };
    let is_name = |factor: &str| factor.starts_with(|c: char| c.is_ascii_uppercase());
    let (count, name) = match term.rsplit_once('*').map(|(count, last)| (count, last.trim())) {
        Some((count, last)) if is_name(last) => (count, Some(last)),
        _ => (term, None),
    };
    let term = match (sum(count, variable, i)?, name) {
        (0, _) => return Some(String::new()),
        (1, Some(name)) => name.to_owned(),
        (value, Some(name)) => format!("{value}u * {name}"),
        (value, None) => format!("{value}u"),
    };
    Some(if before.is_some() { format!(" + {term}") } else { format!("{term} + ") })
}

// Of terms that are a number, the variable or their product; at least one has the variable.
fn sum(expression: &str, variable: &str, i: u32) -> Option<u32> {
    let mut has_variable = false;
    let mut total = 0;
    for term in expression.split('+') {
        let mut product = 1;
        for factor in term.split('*').map(str::trim) {
            product *= if factor == variable {
                has_variable = true;
                i
            } else {
                factor.parse::<u32>().ok()?
            };
        }
        total += product;
    }
    has_variable.then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(source: &str) -> Result<Vec<Line>> {
        expand("some.wgsl", source, &[("HEADS", Constant::U32(2)), ("SCALE", Constant::F32(0))])
    }

    fn text(source: &str) -> String {
        let lines = expanded(source).unwrap();
        lines.into_iter().map(|(line, _)| line).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn numbers_further_terms_and_letters_are_written_out() {
        assert_eq!(
            text("//!repeat 3 i\na{i} = b[{2*i+1}];\n//!end"),
            "a0 = b[1];|a1 = b[3];|a2 = b[5];"
        );
        assert_eq!(
            text("  //!repeat 1..3 i\n  c[at{+16*i}]\n  //!end"),
            "  c[at + 16u]|  c[at + 32u]"
        );
        assert_eq!(
            text("//!repeat 2 i\nv.{xyzw[i+2]} c[at{+i}]\n//!end"),
            "v.z c[at]|v.w c[at + 1u]"
        );
    }

    #[test]
    fn further_terms_may_count_a_constant() {
        let source = "//!repeat 3 i\na[at{+i*LANES}] = b[{i*LANES+}lane];\n//!end";
        let first = "a[at] = b[lane];|a[at + LANES] = b[LANES + lane];|";
        assert_eq!(text(source), format!("{first}a[at + 2u * LANES] = b[2u * LANES + lane];"));
    }

    #[test]
    fn a_constant_counts_and_repeats_hold_repeats() {
        let source = "x\n//!repeat HEADS h\n//!repeat 1..HEADS i\ns_{h}_{i}\n//!end\n//!end\ny";
        assert_eq!(text(source), "x|s_0_1|s_1_1|y");
        let lines: Vec<u32> = expanded(source).unwrap().into_iter().map(|line| line.1).collect();
        assert_eq!(lines, [1, 4, 4, 7]);
    }

    #[test]
    fn braces_around_anything_else_are_wgsl() {
        let line = "if a { b{i} } else { return Eight(c) }";
        assert_eq!(text(&format!("//!repeat 1 i\n{line}\n//!end")), line.replace("{i}", "0"));
        assert_eq!(text("{i}"), "{i}");
    }

    #[test]
    fn what_is_no_repeat_is_told_with_its_place() {
        for (source, place, what) in [
            ("a\n//!repeat 8 i\nb", 2, "without an end"),
            ("a\nb\n//!end", 3, "nothing is repeated"),
            ("//!repeat i 8\n//!end", 1, "not i 8"),
            ("//!repeat SCALE i\n//!end", 1, "not SCALE i"),
            ("//!repeat 8\n//!end", 1, "not 8"),
        ] {
            let error = expanded(source).unwrap_err().to_string();
            assert!(error.starts_with(&format!("shader some.wgsl:{place}: ")), "{error}");
            assert!(error.contains(what), "{error}");
        }
    }
}
