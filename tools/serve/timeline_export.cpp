// What reproduces a timeline: its record, edits and seed, and the command lines that run them.
#include "base/text.h"
#include "tools/serve/branches.h"

namespace signalbox::tools {

namespace {

json::Value list_of(const std::vector<int32_t>& ids) {
  json::Value out = json::Value::array();
  for (const int32_t id : ids) out.push_back(int64_t{id});
  return out;
}

// The trace of another timeline as its command leaves it, beside the edits.
json::Value with_directories(const json::Value& value) {
  if (const std::string id = timeline_name(value); !id.empty()) return id;
  json::Value out = value;
  if (value.type() == json::Type::array) {
    out = json::Value::array();
    for (const json::Value& one : value.items()) out.push_back(one.is_number() ? one : with_directories(one));
  } else if (value.type() == json::Type::object) {
    out = json::Value::object();
    for (const auto& [name, one] : value.members()) out.set(name, with_directories(one));
  }
  return out;
}

// Edits that take rows of a timeline take those of its own sample.
json::Value runnable_edits(const Timeline& timeline) {
  json::Value out = json::Value::array();
  for (const json::Value& edit : timeline.edits.items()) {
    json::Value copy = with_directories(edit);
    for (const char* key : {"trace", "from"}) {
      const json::Value* value = edit.find(key);
      const auto source = timeline.sources.find(value ? timeline_name(*value) : "");
      if (source != timeline.sources.end() && !edit.find("sample")) copy.set("sample", source->second->job.prompt->id);
    }
    out.push_back(std::move(copy));
  }
  return out;
}

json::Value argv_of(const ServedModel& model, const Timeline& timeline, const std::string& files) {
  const Job& job = timeline.job;
  const Generate* generate = job.generate();
  json::Value argv = json::Value::array();
  const auto put = [&](const char* flag, const std::string& value) { argv.push_back(flag).push_back(value); };
  const auto number = [](double value) { return json::dump(json::Value(value)); };
  argv.push_back("signalbox").push_back(generate ? "generate" : "score").push_back(model.session.name);
  put("--input", files + "record.jsonl");
  if (generate) {
    put("--max-tokens", std::to_string(generate->max_tokens));
    put("--temperature", number(generate->sampling.temperature));
    put("--top-p", number(generate->sampling.top_p));
    put("--top-k", std::to_string(generate->sampling.top_k));
    put("--samples", std::to_string(job.sample + 1));
    if (generate->stop) {
      for (const std::string& text : generate->stop->stop_strings) put("--stop", text);
      if (generate->stop->ignore_eos) argv.push_back("--ignore-eos");
    }
    if (timeline.choice) {
      for (const auto& [token, by] : timeline.choice->bias)
        put("--logit-bias", std::to_string(token) + ":" + number(static_cast<double>(by)));
      for (const auto& [position, token] : timeline.choice->forced)
        put("--force-token", std::to_string(position) + ":" + std::to_string(token));
    }
  }
  put("--seed", std::to_string(timeline.seed));
  if (job.plan) put("--edits", files + "edits.json");
  return argv;
}

json::Value record_of(const Timeline& timeline) {
  json::Value record = json::Value::object();
  if (timeline.record.type() == json::Type::object) return timeline.record;
  return record.set("id", timeline.job.prompt->id).set("tokens", list_of(timeline.job.prompt->tokens));
}

// Timelines whose rows the edits take, theirs before them: each with the command that leaves its trace where the edits
// look for it.
void put_sources(const ServedModel& model, const Timeline& timeline, json::Value& out) {
  for (const auto& [id, source] : timeline.sources) {
    put_sources(model, *source, out);
    json::Value argv = argv_of(model, *source, id + ".");
    argv.push_back("--trace").push_back(id);
    argv.push_back("--points").push_back(source->points.empty() ? std::string(default_points) : source->points);
    argv.push_back("--json");
    json::Value one = json::Value::object();
    one.set("record", record_of(*source)).set("edits", runnable_edits(*source)).set("argv", std::move(argv));
    // No command leaves such a trace: one of several samples names them all alike, and an edit takes the first;
    // generate does not record where it biases or forces tokens.
    if (source->job.sample > 0 || (source->choice && !source->choice->empty())) one.set("argv", nullptr);
    out.set(id, std::move(one));
  }
}

}  // namespace

json::Value export_timeline(const ServedModel& model, const Timeline& timeline) {
  json::Value argv = argv_of(model, timeline, ""), sources = json::Value::object(), out = json::Value::object();
  argv.push_back("--json");
  put_sources(model, timeline, sources);
  out.set("record", record_of(timeline))
      .set("edits", runnable_edits(timeline))
      .set("seed", static_cast<int64_t>(timeline.seed))
      .set("sample", int64_t{timeline.job.sample})
      .set("argv", std::move(argv))
      .set(
          "expect",
          json::Value::object().set("tokens", list_of(timeline.tokens)).set("logits_hash", hex64(timeline.logits_hash)))
      .set("model_hash", model.session.model_hash)
      .set("version", SIGNALBOX_VERSION);
  if (!sources.members().empty()) out.set("sources", std::move(sources));
  return out;
}

}  // namespace signalbox::tools
