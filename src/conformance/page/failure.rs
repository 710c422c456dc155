//! A case that failed, with what a driver's engineer needs of it.

use super::super::evidence::{Evidence, Shader};
use super::super::report::About;
use super::super::row::Row;
use super::super::translate::base64;
use super::super::{Given, Worst};
use super::{Text, pairs, put};

/// The section of a row.
pub(super) fn section(out: &mut String, about: &About, row: &Row, evidence: Option<&Evidence>) {
    put(out, format_args!("<section class=\"failure\">\n<h4>{}</h4>\n", Text(&row.name)));
    let detail = row.detail.as_deref().unwrap_or_default();
    put(out, format_args!("<p class=\"bad\">{}</p>\n", Text(detail)));
    put(out, format_args!("<p><code>{}</code></p>\n", Text(&reproduction(about, row))));
    let runs = format!("failed {} of {} times", row.failures, row.runs);
    let facts = [
        ("runs", runs),
        ("tier", row.tier.clone()),
        ("variant", row.variant.clone().unwrap_or_default()),
    ];
    pairs(out, facts.into_iter().chain(row.worst.iter().flat_map(worst)));
    if let Some(evidence) = evidence {
        evidence.shaders.iter().for_each(|shader| of_shader(out, shader));
        bundle(out, row, evidence);
    }
    *out += "</section>\n";
}

/// The command that runs the case again.
fn reproduction(about: &About, row: &Row) -> String {
    let is_plain = about.adapter.chars().all(|c| c.is_ascii_alphanumeric() || ":-_.".contains(c));
    let adapter = match is_plain {
        true => about.adapter.clone(),
        false => format!("'{}'", about.adapter),
    };
    format!("asynctls conformance --adapter {adapter} --case {}", row.name)
}

fn worst(worst: &Worst) -> [(&'static str, String); 6] {
    let number = |value: Option<f64>| match value {
        Some(value) => format!("{value:?}"),
        None => "not a number that is finite".into(),
    };
    [
        ("worst element", format!("[{}] of {}", worst.index, worst.part)),
        ("expected", number(worst.expected)),
        ("actual", number(worst.actual)),
        ("tolerance", number(worst.tolerance)),
        ("why so much", worst.derivation.clone()),
        ("wrong", format!("{} of {}", worst.wrong, worst.of)),
    ]
}

fn of_shader(out: &mut String, shader: &Shader) {
    let file = Text(&shader.file);
    put(
        out,
        format_args!(
            "<details><summary>{file}, assembled</summary>\n<pre>{}</pre></details>\n",
            Text(&shader.wgsl)
        ),
    );
    match &shader.given {
        Given::Text(language, text) => put(
            out,
            format_args!(
                "<details><summary>{file} as {}</summary>\n<pre>{}</pre></details>\n",
                Text(language),
                Text(text)
            ),
        ),
        Given::Words(language, words) => {
            let name = format!("{}.spv", shader.file.replace('/', "-"));
            put(
                out,
                format_args!(
                    "<p><a download=\"{}\" href=\"data:application/octet-stream;base64,{}\">{file} as {}</a></p>\n",
                    Text(&name),
                    Text(words),
                    Text(language)
                ),
            );
        }
        Given::Nothing(why) => {
            put(out, format_args!("<p>{file} in the backend's language: {}.</p>\n", Text(why)));
        }
    }
}

fn bundle(out: &mut String, row: &Row, evidence: &Evidence) {
    match (&evidence.bundle, &evidence.left_out) {
        (Some(bundle), _) => {
            let name = row.name.replace(['/', '@'], "-");
            put(
                out,
                format_args!(
                    "<p><a download=\"{}.json\" href=\"data:application/json;base64,{}\">Inputs, shaders and what is right</a>, \
                     as one JSON object that runs without this program</p>\n",
                    Text(&name),
                    base64(bundle.as_bytes())
                ),
            );
        }
        (None, why) => {
            let why = why.as_deref().unwrap_or_default();
            put(out, format_args!("<p>Its inputs are left out: {}.</p>\n", Text(why)));
        }
    }
}
