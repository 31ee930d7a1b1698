-- Sets what was given of a project's options, and leaves the rest.
UPDATE millhand.projects SET
    base_branch   = coalesce($2, base_branch),
    default_agent = coalesce($3, default_agent),
    default_model = coalesce($4, default_model),
    on_failure    = coalesce($5, on_failure),
    ask_policy    = coalesce($6, ask_policy),
    trusted       = coalesce($7, trusted),
    env_pass      = coalesce($8, env_pass),
    max_attempts  = coalesce($9, max_attempts),
    resend        = coalesce($10, resend)
WHERE name = $1
