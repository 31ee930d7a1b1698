//! Lanes: what a worker filters by before it claims, never after.

/// A lane, taken apart: `host/project id/agent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane<'a> {
    /// The host that the session is at home on; `*` for none yet.
    pub host: &'a str,
    /// Key of the project.
    pub project_id: i64,
    /// The agent, without its mode.
    pub agent: &'a str,
}

impl<'a> Lane<'a> {
    /// Takes a lane apart; none if it has another form, as one made by a newer version may.
    pub fn parse(lane: &'a str) -> Option<Self> {
        let mut fields = lane.splitn(3, '/');
        let (host, project, agent) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Self { host, project_id: project.parse().ok()?, agent })
    }

    /// Whether a worker of this host, which can run these agents, may claim from it.
    pub fn runs_on(&self, host_id: &str, agents: &[String]) -> bool {
        (self.host == "*" || self.host == host_id) && agents.iter().any(|agent| agent == self.agent)
    }
}

/// Splits `opencode/plan` into the agent and its own mode.
pub fn split_agent(agent: &str) -> (&str, Option<&str>) {
    match agent.split_once('/') {
        Some((agent, mode)) => (agent, Some(mode)),
        None => (agent, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_runs_where_its_host_and_agent_are() {
        let agents = ["opencode".to_owned()];
        let runs = |lane| Lane::parse(lane).is_some_and(|lane| lane.runs_on("h1", &agents));
        assert!(runs("*/3/opencode") && runs("h1/3/opencode"));
        assert!(!runs("h2/3/opencode") && !runs("*/3/goose") && !runs("*/x/opencode") && !runs("odd"));
        assert_eq!(split_agent("opencode/plan"), ("opencode", Some("plan")));
        assert_eq!(split_agent("opencode"), ("opencode", None));
    }
}
