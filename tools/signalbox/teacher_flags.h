// Flags of learning from another model's predictions (train/teacher_loss.h), the same for every command that has them.
#pragma once
#include <memory>
#include <string>

#include "base/json.h"
#include "base/namespaces.h"
#include "engine/session.h"
#include "loaders/model/load.h"
#include "train/teacher_loss.h"

namespace CLI {
class App;
}

namespace signalbox::tools {

// --temperature, into `how`.
void add_teacher_temperature(CLI::App& command, train::Teacher& how);
// The same, --kl-weight and --target-weight.
void add_teacher_loss_options(CLI::App& command, train::Teacher& how);
// Throws UsageError where nothing would be learnt.
void check_teacher_loss(const train::Teacher& how);

struct TeacherFlags {
  std::string model;  // empty: none
  train::Teacher how;
};

// --teacher and those above, which need it.
void add_teacher_flags(CLI::App& command, TeacherFlags& flags);

// The model whose predictions are learnt, on the device of the one that learns.
struct TeacherModel {
  loaders::LoadedModel loaded;
  std::unique_ptr<Forward> forward;
  std::unique_ptr<train::TeacherObjective> objective;
};

// Null where there is none. Throws Error where its vocabulary is another.
std::unique_ptr<TeacherModel> open_teacher(const TeacherFlags& flags, const Session& session);

// For a manifest.
json::Value teacher_json(const TeacherFlags& flags, const TeacherModel& teacher);

}  // namespace signalbox::tools
