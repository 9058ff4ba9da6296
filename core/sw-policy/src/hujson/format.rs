//! Lays a policy text out anew and keeps every comment.

use super::lex::{Comment, Token, TokenKind, tokens};
use super::parse::parse;
use crate::error::{Problem, Span};

/// Widest array or object that stays on one line, in characters.
const ONE_LINE_MAX: usize = 88;
const INDENT: &str = "  ";

/// Returns `text` in the standard layout: two spaces of indent, one element a line with a trailing comma, what fits
/// and was on one line stays on one line, at most one empty line in a row. Values and comments are untouched.
///
/// # Errors
/// The syntax problems of the text.
pub fn format(text: &str) -> Result<String, Vec<Problem>> {
    parse(text)?;
    let tokens = tokens(text).map_err(|first| vec![first])?;
    let mut printer = Printer { text, tokens: &tokens, at: 0, out: String::new() };
    printer.own_line_comments(0, true);
    printer.value(0);
    printer.trailing_comments();
    printer.line_end();
    printer.own_line_comments(0, false);
    Ok(printer.out)
}

struct Printer<'t> {
    text: &'t str,
    tokens: &'t [Token],
    at: usize,
    out: String,
}

impl<'t> Printer<'t> {
    fn token(&self) -> &'t Token {
        self.tokens.get(self.at).or(self.tokens.last()).expect("the token list ends with End")
    }

    fn written(&self, span: Span) -> &'t str {
        self.text.get(span.start..span.end).unwrap_or("").trim_end()
    }

    fn line_end(&mut self) {
        let kept = self.out.trim_end_matches([' ', '\t']).len();
        self.out.truncate(kept);
        if !self.out.is_empty() && !self.out.ends_with('\n') {
            self.out.push('\n');
        }
    }

    fn indent(&mut self, depth: usize) {
        for _ in 0..depth {
            self.out.push_str(INDENT);
        }
    }

    fn blank_line(&mut self) {
        if !self.out.is_empty() && !self.out.ends_with("\n\n") {
            self.out.push('\n');
        }
    }

    /// Prints the comments before the current token, each on its own line.
    fn own_line_comments(&mut self, depth: usize, is_first: bool) {
        let token = self.token();
        let mut is_first = is_first;
        let own: Vec<Comment> =
            token.comments.iter().copied().filter(|comment| !self.is_trailing(comment)).collect();
        for comment in own {
            if comment.newlines_before > 1 && !is_first {
                self.blank_line();
            }
            is_first = false;
            self.indent(depth);
            self.out.push_str(self.written(comment.span));
            self.out.push('\n');
        }
        if token.newlines_before > 1 && !is_first && !self.is_closing() {
            self.blank_line();
        }
    }

    fn is_closing(&self) -> bool {
        matches!(self.token().kind, TokenKind::CloseBrace | TokenKind::CloseBracket | TokenKind::End)
    }

    /// A comment on the line of the token before it belongs to that token.
    fn is_trailing(&self, comment: &Comment) -> bool {
        self.at > 0 && comment.newlines_before == 0 && self.ends_line_after(comment)
    }

    fn ends_line_after(&self, comment: &Comment) -> bool {
        let rest = self.text.get(comment.span.end..).unwrap_or("");
        let rest = rest.trim_start_matches([' ', '\t', '\r', ',']);
        rest.is_empty() || rest.starts_with(['\n', '/'])
    }

    /// Prints the comments which stand on the line of the token just printed.
    fn trailing_comments(&mut self) {
        let token = self.token();
        let own: Vec<Comment> =
            token.comments.iter().copied().filter(|comment| self.is_trailing(comment)).collect();
        for comment in own {
            self.out.push_str("  ");
            self.out.push_str(self.written(comment.span));
        }
    }

    fn value(&mut self, depth: usize) {
        let token = self.token();
        let close = if token.kind == TokenKind::OpenBrace {
            self.matching(TokenKind::OpenBrace, TokenKind::CloseBrace)
        } else if token.kind == TokenKind::OpenBracket {
            self.matching(TokenKind::OpenBracket, TokenKind::CloseBracket)
        } else {
            self.out.push_str(self.written(token.span));
            self.at += 1;
            return;
        };
        if let Some(line) = self.on_one_line(close) {
            self.out.push_str(&line);
            self.at = close + 1;
            return;
        }
        self.out.push_str(self.written(token.span));
        self.at += 1;
        self.trailing_comments();
        self.line_end();
        let mut is_first = true;
        while self.at < close {
            self.element(depth + 1, is_first);
            is_first = false;
        }
        self.own_line_comments(depth + 1, is_first);
        self.indent(depth);
        self.out.push_str(self.written(self.token().span));
        self.at += 1;
    }

    fn element(&mut self, depth: usize, is_first: bool) {
        self.own_line_comments(depth, is_first);
        self.indent(depth);
        let is_name = self.tokens.get(self.at + 1).is_some_and(|next| next.kind == TokenKind::Colon);
        if is_name {
            self.out.push_str(self.written(self.token().span));
            self.out.push_str(": ");
            self.at += 1;
            self.inner_comments();
            self.at += 1;
            self.inner_comments();
        }
        self.value(depth);
        if self.token().kind == TokenKind::Comma {
            // A comment between a value and its comma comes after the comma.
            let before_comma = self.token().comments.clone();
            self.at += 1;
            self.out.push(',');
            for comment in before_comma {
                self.out.push_str("  ");
                self.out.push_str(self.written(comment.span));
            }
        } else {
            self.out.push(',');
        }
        self.trailing_comments();
        self.line_end();
    }

    /// Prints comments around the colon of a member, where they stand.
    fn inner_comments(&mut self) {
        let depth_of_line = self.out.lines().last().map_or(0, |line| line.len() - line.trim_start().len());
        for comment in &self.token().comments {
            let written = self.written(comment.span);
            self.out.push_str(written);
            if written.starts_with("//") {
                self.out.push('\n');
                self.out.push_str(&" ".repeat(depth_of_line));
            } else {
                self.out.push(' ');
            }
        }
    }

    fn matching(&self, open: TokenKind, close: TokenKind) -> usize {
        let mut depth = 0;
        for (at, token) in self.tokens.iter().enumerate().skip(self.at) {
            if token.kind == open {
                depth += 1;
            } else if token.kind == close {
                depth -= 1;
                if depth == 0 {
                    return at;
                }
            }
        }
        self.tokens.len() - 1
    }

    /// Returns the brackets from the current token to `close` as one line, if they were one and fit.
    fn on_one_line(&self, close: usize) -> Option<String> {
        let inside = self.tokens.get(self.at + 1..=close)?;
        let is_plain = inside.iter().all(|token| token.newlines_before == 0 && token.comments.is_empty());
        if !is_plain && close > self.at + 1 {
            return None;
        }
        if inside.iter().any(|token| !token.comments.is_empty()) {
            return None;
        }
        let mut line = self.written(self.token().span).to_owned();
        for (at, token) in inside.iter().enumerate() {
            let next = inside.get(at + 1).map(|next| next.kind);
            let is_last = matches!(next, Some(TokenKind::CloseBrace | TokenKind::CloseBracket));
            if token.kind == TokenKind::Colon {
                line.push_str(": ");
            } else if token.kind != TokenKind::Comma {
                line.push_str(self.written(token.span));
            } else if !is_last {
                line.push_str(", ");
            }
        }
        (line.chars().count() <= ONE_LINE_MAX).then_some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_regular_and_comments_stay() {
        let text = "// head\n{\"a\":[1,2 , 3,],   // after a\n\n\n\n// before b\n\"b\":{ \"c\":\n 1 /* c */, \"d\" : [\n\n] }\n // end\n}\n// tail";
        let expected = "// head\n{\n  \"a\": [1, 2, 3],  // after a\n\n  // before b\n  \"b\": {\n    \"c\": 1,  /* c */\n    \"d\": [],\n  },\n  // end\n}\n// tail\n";
        assert_eq!(format(text).unwrap(), expected);
    }

    #[test]
    fn formatting_twice_changes_nothing_and_keeps_the_value() {
        arbtest::arbtest(|u| {
            let mut text = String::new();
            scribble(u, &mut text, 0)?;
            let Ok(before) = parse(&text) else { panic!("the generator writes valid text: {text}") };
            let once = format(&text).unwrap();
            assert_eq!(before.to_json(), parse(&once).unwrap().to_json(), "{text}\n---\n{once}");
            assert_eq!(once, format(&once).unwrap(), "from:\n{text}");
            assert_eq!(text.matches("note").count(), once.matches("note").count(), "{text}\n---\n{once}");
            Ok(())
        });
    }

    fn scribble(
        u: &mut arbitrary::Unstructured<'_>,
        out: &mut String,
        depth: usize,
    ) -> arbitrary::Result<()> {
        gap(u, out)?;
        match u.int_in_range(0..=if depth > 3 { 1 } else { 3 })? {
            0 => out.push_str("12"),
            1 => out.push_str("\"text\""),
            kind => {
                let (open, close) = if kind == 2 { ('[', ']') } else { ('{', '}') };
                out.push(open);
                let count = u.int_in_range(0..=3)?;
                for n in 0..count {
                    if kind == 3 {
                        gap(u, out)?;
                        out.push_str(&format!("\"k{n}\""));
                        gap(u, out)?;
                        out.push(':');
                    }
                    scribble(u, out, depth + 1)?;
                    if n + 1 < count || u.arbitrary()? {
                        gap(u, out)?;
                        out.push(',');
                    }
                }
                gap(u, out)?;
                out.push(close);
            }
        }
        gap(u, out)
    }

    fn gap(u: &mut arbitrary::Unstructured<'_>, out: &mut String) -> arbitrary::Result<()> {
        for _ in 0..u.int_in_range(0..=2)? {
            out.push_str(u.choose(&["", " ", "\n", "\n\n\n", "/* note */", "// note\n", "  ", "\n"])?);
        }
        Ok(())
    }
}
