//! What pages have in common: the head, the theme, the heading, and data that their scripts read.

use std::io::{self, Write};

/// The page, with places for what each page has of its own.
const PAGE: &str = include_str!("shell.html");
const STYLE: &str = include_str!("shell.css");
const SCRIPT: &str = include_str!("shell.js");

/// A page.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    /// The title, as text.
    pub title: &'a str,
    /// What stands above it in small letters, as text.
    pub kind: &'a str,
    /// Lines below the title, as text.
    pub lines: &'a [String],
    /// The body, as HTML.
    pub body: &'a str,
    /// Style sheets of its own.
    pub style: &'a str,
    /// A script of its own, which finds the data as `DATA`.
    pub script: &'a str,
    /// Data, as JSON.
    pub data: &'a str,
}

impl Page<'_> {
    /// Writes the page.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let lines: String = self.lines.iter().map(|line| format!("<p>{}</p>\n", escape(line))).collect();
        for (at, part) in PAGE.split("{{").enumerate() {
            let Some((name, rest)) = part.split_once("}}").filter(|_| at > 0) else {
                out.write_all(part.as_bytes())?;
                continue;
            };
            match name {
                "title" => out.write_all(escape(self.title).as_bytes())?,
                "kind" => out.write_all(escape(self.kind).as_bytes())?,
                "lines" => out.write_all(lines.as_bytes())?,
                "body" => out.write_all(self.body.as_bytes())?,
                "style" => write!(out, "{STYLE}{}", self.style)?,
                "script" => write!(out, "{SCRIPT}{}", self.script)?,
                "data" => out.write_all(quoted(self.data).as_bytes())?,
                _ => {}
            }
            out.write_all(rest.as_bytes())?;
        }
        Ok(())
    }
}

/// Writes JSON such that it can stand in an element of a script: no text in it ends that, or begins a comment.
fn quoted(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// Writes text as it may stand in XML and HTML, in an element or an attribute. What XML has no place for is replaced.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for one in text.chars() {
        match one {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            one if one.is_control() || matches!(one, '\u{fffe}' | '\u{ffff}') => out.push(char::REPLACEMENT_CHARACTER),
            one => out.push(one),
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_meaning_in_xml_is_escaped() {
        assert_eq!(escape("a&b<c>\"d'\u{1}é\n\u{ffff}"), "a&amp;b&lt;c&gt;&quot;d&#39;\u{fffd}é\u{fffd}\u{fffd}");
    }

    #[test]
    fn a_page_has_what_it_was_given_where_that_belongs_and_nothing_of_it_is_read_as_a_place() {
        let mut out = Vec::new();
        let lines = ["{{body}} & <i>".to_owned()];
        let data = serde_json::json!({ "text": "</script><!--{{style}}&" });
        let page = Page {
            title: "</title><b>",
            kind: "a kind",
            lines: &lines,
            body: "<p>{{script}}</p>",
            style: "p { color: red; }",
            script: "draw();",
            data: &data.to_string(),
        };
        page.write(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        for (part, times) in [
            ("&lt;/title&gt;&lt;b&gt;", 2),
            ("<p>{{body}} &amp; &lt;i&gt;</p>", 1),
            ("<p>{{script}}</p>", 1),
            ("p { color: red; }", 1),
            ("draw();", 1),
            ("</script>", 2),
            ("<!--", 0),
        ] {
            assert_eq!(text.matches(part).count(), times, "{part}");
        }
        let inside = text.split("id=\"data\">").nth(1).and_then(|rest| rest.split("</script>").next()).unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(inside).unwrap(), data);
    }
}
