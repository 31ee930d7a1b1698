-- Sets what was given of a project's options, and leaves the rest. An empty branch or model is none.
UPDATE millhand.projects SET
    base_branch   = CASE $2::text WHEN '' THEN NULL ELSE coalesce($2, base_branch) END,
    default_agent = coalesce($3, default_agent),
    default_model = CASE $4::text WHEN '' THEN NULL ELSE coalesce($4, default_model) END,
    on_failure    = coalesce($5, on_failure),
    ask_policy    = coalesce($6, ask_policy),
    trusted       = coalesce($7, trusted),
    env_pass      = coalesce($8, env_pass),
    max_attempts  = coalesce($9, max_attempts),
    resend        = coalesce($10, resend)
WHERE name = $1
