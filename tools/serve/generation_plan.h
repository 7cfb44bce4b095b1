// From the fields of a request to jobs: prompts encoded, edits bound, everything refused that can be.
#pragma once
#include "base/namespaces.h"
#include "tools/serve/generation_run.h"
#include "tools/serve/request_fields.h"
#include "tools/serve/served_model.h"

namespace signalbox::tools {

// Throws ApiError (404) for a name that is not this model's.
void check_model_name(const ServedModel& model, const std::string& name);

// On the thread beside the engine's. Throws ApiError.
GenerationPlan plan_generation(ServedModel& model, GenerationFields fields, int key);

// The edits of a request, at `edits` in its body; conditions may ask for these spans. Throws ApiError (400) with the
// path into the JSON; NeedsRows for those of a timeline of `key` that are not there.
std::shared_ptr<const EditPlan> plan_edits(ServedModel& model, const json::Ref& edits, uint64_t seed, int key,
                                           const std::vector<std::string>& span_names = {});
// Globs of points, which the body has at `field`. Throws ApiError (400).
PointSet plan_points(const ServedModel& model, const std::string& globs, const std::string& field);
// Throws ApiError (400) where so many rows of these points are too much to keep.
void check_recording(const ServedModel& model, const PointSet& points, int64_t n_rows, const std::string& field);

// For the metrics: the ops that a request's edits have. Null: none.
void count_edits(ServedModel& model, const EditPlan* plan);

// A conversation as the template prints it. Throws ApiError (400) with the template's own message.
EncodedText encode_chat(const ServedModel& model, const json::Value& messages, bool add_generation_prompt,
                        bool continue_final, const json::Value& kwargs, bool template_only_specials);

}  // namespace signalbox::tools
