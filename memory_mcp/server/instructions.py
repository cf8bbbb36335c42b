"""What the server tells an agent about itself. Kept short: every session pays for it in tokens."""

INSTRUCTIONS = """\
Memory of earlier tasks that learns from how they ended.
Start of a task: create_episode with a plain description. Its answer brings similar earlier tasks, a playbook of steps \
that worked, pitfalls, and a forecast: read it before you act.
While working: add_episode_step after each tool call or batch of calls, with the real error text of failed ones. The \
answer to a failed step may bring `lessons`: what led out of this error before.
End: complete_episode with the true outcome. Failures teach most; report them too, with the reason.
In between: query_memory for questions ("how was X solved before?"), recommend_playbook for steps.\
"""
