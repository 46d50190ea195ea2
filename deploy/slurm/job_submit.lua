-- Refuses a second job with the portal's key of one that Slurm knows already: a guard against double submission at the
-- only place that sees every submission. Optional; the portal finds its jobs by key without it, too.
--
-- Put it beside slurm.conf on the controllers, with JobSubmitPlugins=lua. A site with rules of its own calls
-- portal_duplicate_of from them. It sees the jobs in the controller's memory, so those that ended less than MinJobAge
-- ago; and none that a dying controller lost.

local PREFIX = "portal:"
-- ESLURM_DUPLICATE_JOB_ID: "Duplicate job id". The portal then looks for the job by its key.
local DUPLICATE = 2011
-- JOB_FAILED in slurm.h; Lua has no name for it.
local FAILED = 5

-- slurm.jobs is made anew only when a second has begun since the last change, so a job of this very second may be
-- missing there. What was let through in this second and the one before it is remembered here.
local second, current, previous = 0, {}, {}

local function remembered(name)
    local now = os.time()
    if now ~= second then
        previous = (now == second + 1) and current or {}
        current, second = {}, now
    end
    return current[name] or previous[name]
end

-- What says that a job of the same user has the same key of the portal's; nil if there is none.
function portal_duplicate_of(job_desc)
    local key = job_desc.comment
    if key == nil or string.sub(key, 1, string.len(PREFIX)) ~= PREFIX then
        return nil
    end
    for _, job in pairs(slurm.jobs) do
        -- Somebody else's job must not keep this one out. A job without a start is the trace of a refused submission
        -- if it has ended: Slurm keeps some of these.
        if job.comment == key and job.user_id == job_desc.user_id then
            if not (job.job_state == FAILED and (job.nodes == nil or job.nodes == "")) then
                return string.format("job %u has the key %s already", job.job_id, key)
            end
        end
    end
    local name = string.format("%u %s", job_desc.user_id, key)
    if remembered(name) then
        return string.format("a job with the key %s was submitted a moment ago", key)
    end
    current[name] = true
    return nil
end

function slurm_job_submit(job_desc, part_list, submit_uid)
    local words = portal_duplicate_of(job_desc)
    if words ~= nil then
        slurm.log_user("%s", words)
        return DUPLICATE
    end
    return slurm.SUCCESS
end

function slurm_job_modify(job_desc, job_rec, part_list, modify_uid)
    return slurm.SUCCESS
end

return slurm.SUCCESS
