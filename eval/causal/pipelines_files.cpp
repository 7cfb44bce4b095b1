// What the numbers of a study of pipelines say, and its tables.
#include <algorithm>
#include <cmath>
#include <map>

#include "base/files.h"
#include "base/json.h"
#include "eval/causal/pipelines.h"
#include "eval/store/staged_files.h"

namespace signalbox::eval {

namespace {

bool shown(const PairedEstimate& estimate) { return estimate.q <= link_q; }

// A control that does not exist is none that an effect could fail.
bool beyond(double effect, double control) { return std::isnan(control) || std::fabs(effect) > control; }

bool same_sign(double a, double b) { return (a > 0 && b > 0) || (a < 0 && b < 0); }

bool selects(LinkVerdict verdict) { return verdict == LinkVerdict::direct || verdict == LinkVerdict::through_others; }

struct PipelineCounts {
  int64_t links = 0, selects = 0, feeds = 0;
};
std::map<int64_t, PipelineCounts> counts_of(const PipelineStudy& study, const PipelineRequest& request) {
  std::map<int64_t, PipelineCounts> counts;
  for (size_t i = 0; i < study.links.size(); ++i)
    for (const int64_t pipeline : request.links[i].pipelines) {
      PipelineCounts& of = counts[pipeline];
      ++of.links;
      of.selects += selects(study.links[i].verdict);
      of.feeds += study.links[i].verdict == LinkVerdict::feeds;
    }
  return counts;
}

int64_t with_verdict(const PipelineStudy& study, std::initializer_list<LinkVerdict> verdicts) {
  return std::count_if(study.links.begin(), study.links.end(), [&](const LinkEffects& link) {
    return std::find(verdicts.begin(), verdicts.end(), link.verdict) != verdicts.end();
  });
}

}  // namespace

const char* verdict_text(LinkVerdict verdict) {
  switch (verdict) {
    case LinkVerdict::direct: return "selects (direct)";
    case LinkVerdict::through_others: return "selects (through others)";
    case LinkVerdict::made_up_for: return "selects (made up for)";
    case LinkVerdict::unspecific: return "selects (unspecific)";
    case LinkVerdict::out_direct: return "keeps out (direct)";
    case LinkVerdict::out_through_others: return "keeps out (through others)";
    case LinkVerdict::out_unspecific: return "keeps out (unspecific)";
    case LinkVerdict::feeds: return "feeds only";
    case LinkVerdict::associated: return "associated only";
    default: return "untested";
  }
}

LinkVerdict judge_link(const LinkEffects& link) {
  if (link.ban_logit.n < 2) return LinkVerdict::untested;
  const double total = link.ban_logit.mean, direct = link.direct_logit.mean;
  const bool acts = shown(link.ban_selected) && shown(link.ban_logit) && same_sign(link.ban_selected.mean, total) &&
                    beyond(total, link.ban_matched);
  const bool messages = shown(link.direct_logit) && beyond(direct, link.direct_controls.random) &&
                        beyond(direct, link.direct_controls.matched);
  if (acts) {
    const bool along = same_sign(direct, total), out = total > 0;
    if (messages && along) return out ? LinkVerdict::out_direct : LinkVerdict::direct;
    if (along && shown(link.direct_logit) && std::fabs(direct) >= std::fabs(total) / 2)
      return out ? LinkVerdict::out_unspecific : LinkVerdict::unspecific;
    return out ? LinkVerdict::out_through_others : LinkVerdict::through_others;
  }
  if (messages && shown(link.direct_selected) && link.direct_selected.mean < 0 && direct < 0)
    return LinkVerdict::made_up_for;
  const bool feeds = shown(link.feeds_over_random) && link.feeds_over_random.mean > 0 &&
                     beyond(link.feeds.mean, link.feeds_controls.random) &&
                     beyond(link.feeds.mean, link.feeds_controls.matched);
  return feeds ? LinkVerdict::feeds : LinkVerdict::associated;
}

std::string pipelines_sentence(const PipelineStudy& study, const PipelineRequest& request) {
  const auto number = [&](std::initializer_list<LinkVerdict> verdicts) {
    return std::to_string(with_verdict(study, verdicts));
  };
  const size_t n = study.links.size();
  std::string text = "Of " + std::to_string(n) + (n == 1 ? " pair" : " pairs") + " of experts that go together, " +
                     number({LinkVerdict::direct}) + " select directly, " + number({LinkVerdict::through_others}) +
                     " through others, " + number({LinkVerdict::feeds}) + " feed only, " +
                     number({LinkVerdict::associated}) + " are associated only";
  const auto also = [&](std::initializer_list<LinkVerdict> verdicts, const char* what) {
    if (with_verdict(study, verdicts) > 0) text += ", " + number(verdicts) + " " + what;
  };
  also({LinkVerdict::unspecific}, "select, but no more than a control would");
  also({LinkVerdict::made_up_for}, "would select but are made up for");
  also({LinkVerdict::out_direct, LinkVerdict::out_through_others, LinkVerdict::out_unspecific}, "keep the other out");
  also({LinkVerdict::untested}, "could not be tested");
  text += ".";
  const std::map<int64_t, PipelineCounts> counts = counts_of(study, request);
  if (!counts.empty()) {
    const auto whole = std::count_if(counts.begin(), counts.end(),
                                     [](const auto& of) { return of.second.selects == of.second.links; });
    text += " " + std::to_string(whole) + " of " + std::to_string(counts.size()) +
            (counts.size() == 1 ? " pipeline selects" : " pipelines select") + " at every step.";
  }
  return text;
}

std::vector<std::string> pipeline_study_files() { return {"links.csv", "summary.json"}; }

void write_pipeline_study(const std::filesystem::path& dir, const PipelineStudy& study, const PipelineRequest& request,
                          const engine::Session& session, const json::Value& sources) {
  StagedFiles files(dir, pipeline_study_files());
  std::vector<std::string> columns = {"from", "to", "pipelines", "phi", "verdict", "tokens", "records", "selected"};
  const auto estimate_columns = [&](const std::string& name) {
    for (const char* end : {"", "_ci_lo", "_ci_hi", "_p", "_q"}) columns.push_back(name + end);
  };
  estimate_columns("ban_selected");
  estimate_columns("ban_logit");
  columns.insert(columns.end(), {"ban_matched_95", "later_tokens"});
  estimate_columns("later_selected");
  estimate_columns("later_logit");
  estimate_columns("direct_selected");
  columns.push_back("direct_flipped");
  estimate_columns("direct_logit");
  columns.insert(columns.end(), {"direct_random_95", "direct_matched_95", "direct_other_token_95", "both_tokens",
                                 "feeds", "feeds_ci_lo", "feeds_ci_hi"});
  estimate_columns("feeds_over_random");
  columns.insert(columns.end(), {"feeds_random_95", "feeds_matched_95", "feeds_other_token_95", "matched"});
  CsvWriter table(std::vector<std::string_view>(columns.begin(), columns.end()));
  for (size_t i = 0; i < study.links.size(); ++i) {
    const ExpertLink& link = request.links[i];
    const LinkEffects& found = study.links[i];
    std::string pipelines;
    for (const int64_t pipeline : link.pipelines)
      pipelines += (pipelines.empty() ? "" : ";") + std::to_string(pipeline);
    table.cell(node_name(link.from)).cell(node_name(link.to)).cell(pipelines).cell(link.phi);
    table.cell(verdict_text(found.verdict)).cell(found.tokens).cell(found.ban_logit.n).cell(found.selected);
    append_estimate(table, found.ban_selected);
    append_estimate(table, found.ban_logit);
    table.cell(found.ban_matched).cell(found.later_tokens);
    append_estimate(table, found.later_selected);
    append_estimate(table, found.later_logit);
    append_estimate(table, found.direct_selected);
    append_estimate(table.cell(found.direct_flipped), found.direct_logit);
    for (const LinkControls* controls : {&found.direct_controls, &found.feeds_controls}) {
      if (controls == &found.feeds_controls) {
        table.cell(found.both_tokens).cell(found.feeds.mean).cell(found.feeds.ci.lo).cell(found.feeds.ci.hi);
        append_estimate(table, found.feeds_over_random);
      }
      table.cell(controls->random).cell(controls->matched).cell(controls->other_token);
    }
    table.cell(found.matched);
    table.end_row();
  }
  write_file_atomically(files.path() / "links.csv", table.text());
  json::Value pipelines = json::Value::array(), verdicts = json::Value::object();
  for (const auto& [pipeline, counts] : counts_of(study, request))
    pipelines.push_back(json::Value::object()
                            .set("pipeline", pipeline)
                            .set("links", counts.links)
                            .set("selects", counts.selects)
                            .set("feeds_only", counts.feeds));
  for (int verdict = 0; verdict <= static_cast<int>(LinkVerdict::untested); ++verdict)
    verdicts.set(verdict_text(static_cast<LinkVerdict>(verdict)),
                 with_verdict(study, {static_cast<LinkVerdict>(verdict)}));
  json::Value controls = json::Value::object();
  controls.set("random", "vectors of the size of what the sender adds, in place of its mean direction and of the rest")
      .set("draws", request.draws)
      .set("matched", "experts of the sender's layer that are selected about as often and not linked to the receiver")
      .set("matched_at_most", request.matched)
      .set("other_token", "what the sender adds at another of its tokens")
      .set("percentile", int64_t{95});
  json::Value summary = json::Value::object();
  summary.set("schema", "signalbox.causal_pipelines/1")
      .set("found", pipelines_sentence(study, request))
      .set("ablation",
           "total: the sender is banned; direct and feeds: what it adds is taken from the stream that the receiver "
           "reads, all between held")
      .set("reference", "the unedited run")
      .set("split", json::Value())
      .set("seed", request.resamples.seed)
      .set("resamples", request.resamples.n)
      .set("model", session.label)
      .set("model_hash", session.model_hash)
      .set("sources", sources)
      .set("records", study.records)
      .set("units", study.units)
      .set("unit", "records of one pair together, or a record")
      .set("tokens", study.tokens)
      .set("experts_banned", study.banned)
      .set("controls", std::move(controls))
      .set("test", "signs of units flipped, two-sided")
      .set("interval", "95 %, BCa over units, levels widened for few units")
      .set("q_over", "all links, for each column")
      .set("q", link_q)
      .set("verdicts", std::move(verdicts))
      .set("pipelines", std::move(pipelines));
  write_file_atomically(files.path() / "summary.json", json::dump(summary) + "\n");
  files.commit();
}

}  // namespace signalbox::eval
