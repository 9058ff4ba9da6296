//! Builds values from tokens. Goes on after a missing comma, so that several mistakes show at once.

use std::collections::BTreeSet;

use super::lex::{Token, TokenKind, problem, tokens};
use super::{DEPTH_MAX, Json, Member, TEXT_BYTES_MAX, Value};
use crate::error::{Kind, Problem, Span};

/// Parses a HuJSON text.
///
/// # Errors
/// The syntax problems (`hujson_syntax`), or duplicate names and bad strings (`invalid_json`), in the order of
/// the text.
pub fn parse(text: &str) -> Result<Value, Vec<Problem>> {
    if text.len() > TEXT_BYTES_MAX {
        let message = format!("the policy has {} bytes; the limit is {TEXT_BYTES_MAX}", text.len());
        return Err(vec![problem(Kind::HujsonSyntax, 0, 1, message, "split it, or use groups and tags")]);
    }
    let tokens = tokens(text).map_err(|first| vec![first])?;
    let mut parser = Parser { text, tokens: &tokens, at: 0, problems: Vec::new() };
    let value = parser.value(0);
    if value.is_some() && parser.kind() != TokenKind::End {
        parser.unexpected("text after the end of the policy", "remove it");
    }
    match value {
        Some(value) if parser.problems.is_empty() => Ok(value),
        Some(_) | None => Err(parser.problems),
    }
}

struct Parser<'t> {
    text: &'t str,
    tokens: &'t [Token],
    at: usize,
    problems: Vec<Problem>,
}

/// What may stand after an element of an array or object.
enum After {
    Next,
    End,
    GiveUp,
}

impl Parser<'_> {
    fn kind(&self) -> TokenKind {
        self.tokens.get(self.at).map_or(TokenKind::End, |token| token.kind)
    }

    fn span(&self) -> Span {
        let end = Span { start: self.text.len(), end: self.text.len() };
        self.tokens.get(self.at).map_or(end, |token| token.span)
    }

    fn written(&self, span: Span) -> &str {
        self.text.get(span.start..span.end).unwrap_or("")
    }

    fn unexpected(&mut self, message: &str, fix: &str) {
        let Span { start, end } = self.span();
        self.problems.push(problem(Kind::HujsonSyntax, start, end, message.to_owned(), fix));
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        let span = self.span();
        let kind = self.kind();
        if depth >= DEPTH_MAX && matches!(kind, TokenKind::OpenBrace | TokenKind::OpenBracket) {
            self.unexpected("more than 64 brackets inside one another", "nest less");
            return None;
        }
        self.at += 1;
        let json = match kind {
            TokenKind::OpenBrace => return self.object(span, depth),
            TokenKind::OpenBracket => return self.array(span, depth),
            TokenKind::String => Json::String(self.string(span)),
            TokenKind::Number => Json::Number(self.written(span).to_owned()),
            TokenKind::True => Json::Bool(true),
            TokenKind::False => Json::Bool(false),
            TokenKind::Null => Json::Null,
            TokenKind::CloseBrace
            | TokenKind::CloseBracket
            | TokenKind::Colon
            | TokenKind::Comma
            | TokenKind::End => {
                self.at -= 1;
                self.no_value(kind);
                return None;
            }
        };
        Some(Value { span, json })
    }

    fn no_value(&mut self, kind: TokenKind) {
        match kind {
            TokenKind::End if self.at == 0 => {
                self.unexpected("the policy holds no value", "write {} for the default policy");
            }
            TokenKind::End => self.unexpected("the policy ends too early", "close every [ and {"),
            TokenKind::Comma => self.unexpected("a comma without a value before it", "remove the comma"),
            TokenKind::CloseBrace
            | TokenKind::CloseBracket
            | TokenKind::Colon
            | TokenKind::OpenBrace
            | TokenKind::OpenBracket
            | TokenKind::String
            | TokenKind::Number
            | TokenKind::True
            | TokenKind::False
            | TokenKind::Null => {
                let message = format!("{:?} where a value should stand", self.written(self.span()));
                self.unexpected(&message, "write the value, or remove what comes before");
            }
        }
    }

    fn array(&mut self, open: Span, depth: usize) -> Option<Value> {
        let mut items = Vec::new();
        while self.kind() != TokenKind::CloseBracket {
            items.push(self.value(depth + 1)?);
            match self.after(TokenKind::CloseBracket, "]") {
                After::Next => {}
                After::End => break,
                After::GiveUp => return None,
            }
        }
        let span = self.close(open);
        Some(Value { span, json: Json::Array(items) })
    }

    fn object(&mut self, open: Span, depth: usize) -> Option<Value> {
        let mut members: Vec<Member> = Vec::new();
        let mut seen = BTreeSet::new();
        while self.kind() != TokenKind::CloseBrace {
            let member = self.member(depth)?;
            if !seen.insert(member.name.clone()) {
                let Span { start, end } = member.name_span;
                let message = format!("duplicate object member name {:?}", member.name);
                let fix = "keep one of them, or join their values";
                self.problems.push(problem(Kind::InvalidJson, start, end, message, fix));
            }
            members.push(member);
            match self.after(TokenKind::CloseBrace, "}") {
                After::Next => {}
                After::End => break,
                After::GiveUp => return None,
            }
        }
        let span = self.close(open);
        Some(Value { span, json: Json::Object(members) })
    }

    fn member(&mut self, depth: usize) -> Option<Member> {
        let name_span = self.span();
        if self.kind() != TokenKind::String {
            if matches!(self.kind(), TokenKind::End | TokenKind::Comma) {
                self.no_value(self.kind());
            } else {
                let message = format!("{:?} where a name should stand", self.written(name_span));
                self.unexpected(&message, "names of an object are strings in double quotes");
            }
            return None;
        }
        self.at += 1;
        let name = self.string(name_span);
        if self.kind() == TokenKind::Colon {
            self.at += 1;
        } else {
            self.unexpected("no colon after the name", "write \"name\": value");
            return None;
        }
        let value = self.value(depth + 1)?;
        Some(Member { name, name_span, value })
    }

    fn after(&mut self, close: TokenKind, close_text: &str) -> After {
        match self.kind() {
            TokenKind::Comma => {
                self.at += 1;
                After::Next
            }
            kind if kind == close => After::End,
            TokenKind::String
            | TokenKind::Number
            | TokenKind::True
            | TokenKind::False
            | TokenKind::Null
            | TokenKind::OpenBrace
            | TokenKind::OpenBracket => {
                self.unexpected("no comma before this value", "put a comma after the value before it");
                After::Next
            }
            TokenKind::End => {
                self.unexpected("the policy ends too early", &format!("close it with {close_text}"));
                After::GiveUp
            }
            TokenKind::CloseBrace | TokenKind::CloseBracket | TokenKind::Colon => {
                let message =
                    format!("{:?} where \",\" or {close_text:?} should stand", self.written(self.span()));
                self.unexpected(&message, &format!("close it with {close_text} first"));
                After::GiveUp
            }
        }
    }

    fn close(&mut self, open: Span) -> Span {
        let end = self.span().end;
        self.at += 1;
        Span { start: open.start, end }
    }

    fn string(&mut self, span: Span) -> String {
        let written = self.written(span);
        match serde_json::from_str(written) {
            Ok(text) => text,
            Err(_) => {
                let message = format!("the string {written} has an escape that JSON does not know");
                let fix = "escapes are \\\" \\\\ \\/ \\b \\f \\n \\r \\t and \\u with four hex digits";
                self.problems.push(problem(Kind::InvalidJson, span.start, span.end, message, fix));
                String::new()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_trailing_commas_are_the_only_extensions() {
        let text = "/* a */ { // b\n \"x\": [1, 2,], \"y\": \"// text\", /* c */ }";
        let value = parse(text).unwrap();
        assert_eq!(value.to_json(), serde_json::json!({"x": [1, 2], "y": "// text"}));
        for bad in [
            "",
            " // only a comment",
            "[,]",
            "[1,,]",
            "{,}",
            "[1 2]",
            "{'a': 1}",
            "{a: 1}",
            "[0x10]",
            "[01]",
            "[NaN]",
            "\u{feff}{}",
            "/* no end",
            "[1] 2",
            "{\"a\" 1}",
            "[\"\\x\"]",
            "[\"a\nb\"]",
            "[1}",
            "{\"a\": }",
            "# no\n{}",
            "[+1]",
            "[.5]",
            "[1.]",
            "[\"\\ud800\"]",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn several_missing_commas_show_at_once() {
        let problems = parse("[1 2 3]").unwrap_err();
        assert_eq!(problems.len(), 2);
    }

    #[test]
    fn depth_is_limited() {
        let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(parse(&deep(DEPTH_MAX)).is_ok());
        assert!(parse(&deep(DEPTH_MAX + 1)).is_err());
        assert!(parse(&"[".repeat(1 << 20)).is_err());
    }

    #[test]
    fn duplicate_names_are_an_error() {
        let problems = parse("{\"a\": 1, \"a\": 2}").unwrap_err();
        assert_eq!(problems[0].kind, Kind::InvalidJson);
        assert_eq!(problems[0].message, "duplicate object member name \"a\"");
    }

    #[test]
    fn any_text_gives_a_value_or_problems_inside_it() {
        arbtest::arbtest(|u| {
            let text: String = u.arbitrary()?;
            let pieces =
                ["{", "}", "[", "]", ",", ":", "\"a\"", "//", "/*", "*/", "\n", "1", "null", "\"", "\\"];
            let mut mixed = String::new();
            for _ in 0..u.int_in_range(0..=40)? {
                mixed.push_str(u.choose(&pieces)?);
            }
            for text in [text, mixed] {
                if let Err(problems) = parse(&text) {
                    assert!(!problems.is_empty());
                    assert!(problems.iter().all(|problem| problem.span.start <= text.len()));
                }
            }
            Ok(())
        });
    }
}
