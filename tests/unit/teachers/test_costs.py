from kd_ray.teachers.costs import Costs, JobCost


def test_accounts_add_up_and_old_jobs_are_kept_together():
    costs = Costs()
    for number in range(400):
        costs.add(f"job-{number}", JobCost(requests=1, rows=number, teacher_s=0.5))
        costs.add(f"job-{number}", JobCost(bytes_out=2))
    accounts = costs.by_job
    assert len(accounts) <= 256
    assert sum(cost.requests for cost in accounts.values()) == 400
    assert sum(cost.rows for cost in accounts.values()) == sum(range(400))
    assert sum(cost.bytes_out for cost in accounts.values()) == 800
    assert accounts["job-399"] == JobCost(requests=1, rows=399, teacher_s=0.5, bytes_out=2)
    assert accounts[Costs.GONE].requests == 400 - (len(accounts) - 1)


def test_what_is_shown_is_a_copy():
    costs = Costs()
    costs.add("a", JobCost(rows=1))
    shown = costs.by_job["a"]
    costs.add("a", JobCost(rows=1))
    assert shown.rows == 1
