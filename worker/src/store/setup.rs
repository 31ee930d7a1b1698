//! What new worktrees of a project are set up with.

use super::{Result, Store};

/// A project's setup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setup {
    /// The command, as a shell reads it.
    pub command: Option<String>,
    /// Files to copy in: where in the worktree, and from where.
    pub files: Vec<(String, String)>,
}

impl Setup {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.command.is_none() && self.files.is_empty()
    }
}

/// Changes to how worktrees of a project are set up, and its changes checked. What is not named stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetupChange<'a> {
    /// The command; empty: none.
    pub command: Option<&'a str>,
    /// Whether pooled worktrees keep ignored files.
    pub keep: Option<bool>,
    /// Files that are copied from now on: where in the worktree, and from where.
    pub copy: &'a [(String, String)],
    /// Files that are not copied any more, by where in the worktree.
    pub no_copy: &'a [String],
    /// How often in a row failed checks are sent back.
    pub check_resends: Option<i32>,
    /// Whether changes whose checks have not passed are refused.
    pub checks_required: Option<bool>,
}

impl Store {
    /// What a project's new worktrees are set up with.
    pub async fn setup(&self, project_id: i64) -> Result<Setup> {
        let sql = "SELECT p.setup_command, f.path, f.source FROM millhand.projects p \
                   LEFT JOIN millhand.project_files f ON f.project = p.name WHERE p.id = $1 ORDER BY f.path";
        let rows = self.client().await?.query(sql, &[&project_id]).await?;
        let file =
            |row: &tokio_postgres::Row| Some((row.get::<_, Option<_>>("path")?, row.get::<_, Option<_>>("source")?));
        Ok(Setup {
            command: rows.first().and_then(|row| row.get("setup_command")),
            files: rows.iter().filter_map(file).collect(),
        })
    }

    /// Whether a project's pooled worktrees keep ignored files.
    pub async fn keeps_setup(&self, project_id: i64) -> Result<bool> {
        let sql = "SELECT setup_kept FROM millhand.projects WHERE id = $1";
        Ok(self.client().await?.query_opt(sql, &[&project_id]).await?.is_some_and(|row| row.get(0)))
    }

    /// Changes a project's setup. False if there is no such project.
    pub async fn change_setup(&self, project: &str, change: &SetupChange<'_>, who: &str) -> Result<bool> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let sql = "UPDATE millhand.projects SET \
                   setup_command = CASE WHEN $2::text IS NULL THEN setup_command ELSE nullif($2, '') END, \
                   setup_kept = coalesce($3, setup_kept), check_resends = coalesce($4, check_resends), \
                   checks_required = coalesce($5, checks_required) WHERE name = $1";
        let SetupChange { command, keep, copy, no_copy, check_resends, checks_required } = change;
        if transaction.execute(sql, &[&project, command, keep, check_resends, checks_required]).await? == 0 {
            return Ok(false);
        }
        let sql = "DELETE FROM millhand.project_files WHERE project = $1 AND path = ANY ($2)";
        transaction.execute(sql, &[&project, no_copy]).await?;
        for (path, source) in *copy {
            let sql = "INSERT INTO millhand.project_files (project, path, source) VALUES ($1, $2, $3) \
                       ON CONFLICT (project, path) DO UPDATE SET source = excluded.source";
            transaction.execute(sql, &[&project, path, source]).await?;
        }
        // What is run is for the record, as it runs on the hosts.
        let sql = "INSERT INTO millhand.audit_log (action, project, details) VALUES ('change_setup', $1, \
                   jsonb_build_object('by', $2::text, 'command', $3::text, 'copy', $4::text[], 'no_copy', $5::text[]))";
        let copied: Vec<&str> = copy.iter().map(|(path, _)| path.as_str()).collect();
        transaction.execute(sql, &[&project, &who, command, &copied, no_copy]).await?;
        transaction.commit().await?;
        Ok(true)
    }
}
