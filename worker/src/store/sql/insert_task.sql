-- Puts a task into the queue; the table's trigger opens its session and fills what is left out.
INSERT INTO millhand.tasks (project, session_id, chat_id, prompt, agent, model, variant, priority, idempotency_key, merge_commit,
                            merge_branch)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
RETURNING id, session_id, chat_id
