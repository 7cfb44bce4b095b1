#include "tools/signalbox/jobs_plan.h"

#include <algorithm>
#include <vector>

#include "eval/experiment/estimate.h"
#include "eval/experiment/speed.h"
#include "tools/signalbox/dry_run.h"
#include "tools/terminal/output.h"

namespace signalbox::tools {

namespace {

struct GroupSize {
  std::string group;
  int64_t prompts = 0, given = 0, generated = 0;  // tokens of all samples, generated ones at most
};

}  // namespace

void print_jobs_plan(const CommonOptions& options, const Session& session, PreparedRun& run, const RunOptions& running,
                     const JobGroups& groups, int64_t kept) {
  std::vector<GroupSize> sizes;
  GroupSize all;
  int64_t longest = 0;
  for (const Job& job : run.jobs()) {
    const std::string group = groups.group_of(job);
    auto found = std::find_if(sizes.begin(), sizes.end(), [&](const GroupSize& one) { return one.group == group; });
    if (found == sizes.end()) found = sizes.insert(sizes.end(), GroupSize{group});
    for (GroupSize* to : {&*found, &all}) {
      to->prompts += job.sample == 0;
      to->given += job.n_given();
      to->generated += job.max_new();
    }
    longest = std::max(longest, job.n_given() + job.max_new());
  }
  Forward forward = session.forward(widest_route(run.jobs()));
  const EngineSpeed speed = measure_speed(forward, run.jobs(), running, 0.3);
  const double seconds = static_cast<double>(all.given) / speed.given +
                         (all.generated > 0 ? static_cast<double>(all.generated) / speed.generated : 0);
  const TraceRequest request = trace_request(options, session, run);
  const int32_t slots = std::max(session.shape.n_active(), widest_route(run.jobs()));
  const double bytes = static_cast<double>(all.given + all.generated) *
                       trace_bytes(request.points, session.shape, slots, run.plan != nullptr, longest);
  if (options.json) {
    json::Value list = json::Value::array(), plan = json::Value::object();
    for (const GroupSize& one : sizes)
      list.push_back(json::Value::object()
                         .set(groups.name, one.group)
                         .set("prompts", one.prompts)
                         .set("given_tokens", one.given)
                         .set("generated_tokens_at_most", one.generated));
    plan.set(groups.plural, std::move(list))
        .set("samples_kept", kept)
        .set("seconds_at_most", seconds)
        .set("trace_bytes", bytes);
    write_stdout(json::dump(plan) + "\n");
    return;
  }
  std::vector<std::vector<std::string>> rows = {{groups.name, "prompts", "given tokens", "generated at most"}};
  for (const GroupSize& one : sizes)
    rows.push_back({one.group, grouped(one.prompts), grouped(one.given), grouped(one.generated)});
  rows.push_back({"all", grouped(all.prompts), grouped(all.given), grouped(all.generated)});
  write_stdout("Nothing is written: this is what " + groups.what + " would do.\n\n" + aligned_rows(rows, {0}) +
               "\ntime  " + time_in_words(seconds, seconds) + " for the texts, as measured just now" +
               (groups.rest.empty() ? "" : "; " + groups.rest) +
               (kept > 0 ? "\nkept  " + grouped(kept) + " of " + grouped(static_cast<int64_t>(run.jobs().size())) +
                               " texts are there from before, and are not made again"
                         : "") +
               "\ndisk  trace " + bytes_in_words(bytes) + ", and as much again while it is written\n");
}

}  // namespace signalbox::tools
