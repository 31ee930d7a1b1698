//! What a commit that takes an agent's changes says: a template of the operator's, filled in.

/// What a template may name, each as `{name}`.
#[derive(Clone, Debug, Default)]
pub struct CommitFacts<'a> {
    /// Title of the session.
    pub title: &'a str,
    /// What was asked last.
    pub prompt: &'a str,
    /// The agent's last words.
    pub summary: &'a str,
    /// The session (s7).
    pub session: String,
    /// The task (t42).
    pub task: String,
    /// The agent.
    pub agent: &'a str,
    /// The project.
    pub project: &'a str,
}

/// What an apply took: a tree, and the commit that it was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The commit that the change set was measured against.
    pub base_commit: String,
    /// That commit with what was taken.
    pub tree_id: String,
}

/// The longest message: git takes it as one argument.
const LONGEST: usize = 60_000;

/// Fills in a template. What it names and nobody knows stays as it is.
pub fn fill(template: &str, facts: &CommitFacts<'_>) -> String {
    let mut filled = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        let (before, from) = rest.split_at(open);
        filled.push_str(before);
        let name = from[1..].find('}').map(|close| &from[1..=close]);
        let value = name.and_then(|name| match name {
            "title" => Some(facts.title),
            "prompt" => Some(facts.prompt),
            "summary" => Some(facts.summary),
            "session" => Some(&facts.session),
            "task" => Some(&facts.task),
            "agent" => Some(facts.agent),
            "project" => Some(facts.project),
            _ => None,
        });
        match value.zip(name) {
            Some((value, name)) => {
                filled.push_str(value);
                rest = &from[name.len() + 2..];
            }
            None => {
                filled.push('{');
                rest = &from[1..];
            }
        }
    }
    filled.push_str(rest);
    filled
}

/// The whole message: subject and body, then the trailers in a paragraph of their own.
pub fn message(template: &str, trailers: &str, facts: &CommitFacts<'_>) -> String {
    let mut text = fill(template, facts).replace(['\0', '\r'], "").trim().to_owned();
    if let Some((at, _)) = text.char_indices().find(|(at, _)| *at >= LONGEST) {
        text.truncate(at);
    }
    if text.is_empty() {
        text = format!("Changes of {}", facts.session);
    }
    // A trailer is one line; what fills it in must not make two of it.
    let trailers: Vec<_> = trailers
        .lines()
        .map(|line| fill(line, facts).replace(['\0', '\r', '\n'], " ").trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect();
    if trailers.is_empty() { format!("{text}\n") } else { format!("{text}\n\n{}\n", trailers.join("\n")) }
}

/// Name and address of `Name <address>`.
pub fn author(text: &str) -> Option<(&str, &str)> {
    let (name, rest) = text.split_once('<')?;
    let address = rest.trim_end().strip_suffix('>')?;
    let clean = |part: &str| !part.is_empty() && !part.contains(['<', '>', '\n', '\0']);
    (clean(name.trim()) && clean(address.trim())).then(|| (name.trim(), address.trim()))
}

/// The page that opens a pull request for a branch pushed to a remote, where the form of its address is known.
pub fn pull_request_link(remote: &str, branch: &str) -> Option<String> {
    let rest = remote.split_once("://").map_or(remote, |(_, rest)| rest);
    let rest = rest.split_once('@').filter(|(user, _)| !user.contains('/')).map_or(rest, |(_, rest)| rest);
    let (host, path) = match remote.contains("://") {
        true => rest.split_once('/')?,
        false => rest.split_once(':')?,
    };
    let host = host.split(':').next()?;
    let path = path.trim_matches('/').trim_end_matches(".git");
    let branch: String = branch
        .bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/' => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect();
    if host == "github.com" || host.starts_with("github.") {
        return Some(format!("https://{host}/{path}/pull/new/{branch}"));
    }
    if host == "gitlab.com" || host.starts_with("gitlab.") {
        let branch = branch.replace('/', "%2F");
        return Some(format!("https://{host}/{path}/-/merge_requests/new?merge_request%5Bsource_branch%5D={branch}"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> CommitFacts<'static> {
        CommitFacts {
            title: "Add a flag",
            prompt: "Add\n{task}",
            summary: "Done.\r\nEvil: trailer",
            session: "s7".to_owned(),
            task: "t42".to_owned(),
            agent: "opencode",
            project: "acme",
        }
    }

    #[test]
    fn templates_are_filled_in_once() {
        for (template, filled) in [
            ("{title}", "Add a flag"),
            ("{project}: {title} ({session}, {task}) by {agent}", "acme: Add a flag (s7, t42) by opencode"),
            ("{prompt}", "Add\n{task}"),
            ("{what} {", "{what} {"),
            ("{{title}}", "{Add a flag}"),
            ("", ""),
        ] {
            assert_eq!(fill(template, &facts()), filled, "{template}");
        }
    }

    #[test]
    fn trailers_stand_in_a_paragraph_of_one_line_each() {
        let text = message("{title}\n", "Session: {session}\n\nNote: {summary}", &facts());
        assert_eq!(text, "Add a flag\n\nSession: s7\nNote: Done.  Evil: trailer\n");
        assert_eq!(
            message(" {summary} ", "", &CommitFacts { session: "s1".to_owned(), ..Default::default() }),
            "Changes of s1\n"
        );
        let long = "ä".repeat(100_000);
        assert!(message("{title}", "", &CommitFacts { title: &long, ..Default::default() }).len() < 70_000);
    }

    #[test]
    fn authors_have_a_name_and_an_address() {
        assert_eq!(author("Ada <ada@example.org>"), Some(("Ada", "ada@example.org")));
        for bad in ["", "Ada", "<a@b>", "Ada <>", "Ada <a> <b>", "Ada\n<a>x"] {
            assert_eq!(author(bad), None, "{bad}");
        }
    }

    #[test]
    fn pull_requests_are_opened_where_the_host_is_known() {
        for (remote, link) in [
            ("git@github.com:team/x.git", Some("https://github.com/team/x/pull/new/a/b")),
            ("https://tok@github.com/team/x", Some("https://github.com/team/x/pull/new/a/b")),
            ("ssh://git@github.example.org:22/team/x.git/", Some("https://github.example.org/team/x/pull/new/a/b")),
            (
                "https://gitlab.com/g/sub/x.git",
                Some("https://gitlab.com/g/sub/x/-/merge_requests/new?merge_request%5Bsource_branch%5D=a%2Fb"),
            ),
            ("https://example.org/x.git", None),
            ("/srv/x.git", None),
        ] {
            assert_eq!(pull_request_link(remote, "a/b").as_deref(), link, "{remote}");
        }
    }
}
