#include "tools/signalbox/teacher_flags.h"

#include <CLI/CLI.hpp>

#include "base/error.h"
#include "base/file_hash.h"
#include "tools/builtin/builtin_files.h"
#include "tools/signalbox/facts.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/open.h"

namespace signalbox::tools {

using namespace train;

void add_teacher_temperature(CLI::App& command, Teacher& how) {
  command.add_option("--temperature", how.temperature, "of both models' logits in the divergence")
      ->check(in_range(1e-3, 1e3))
      ->capture_default_str();
}

void add_teacher_loss_options(CLI::App& command, Teacher& how) {
  add_teacher_temperature(command, how);
  command.add_option("--kl-weight", how.weight, "of the divergence from the teacher in the loss")
      ->check(in_range(0.0, 1e9))
      ->capture_default_str();
  command.add_option("--target-weight", how.target, "of -log p of the tokens themselves beside it")
      ->check(in_range(0.0, 1e9))
      ->capture_default_str();
}

void check_teacher_loss(const Teacher& how) {
  if (how.weight == 0 && how.target == 0)
    throw UsageError("--kl-weight, --target-weight", "expected a number above 0 for one of them, found 0 for both");
}

void add_teacher_flags(CLI::App& command, TeacherFlags& flags) {
  CLI::Option* const model = command
                                 .add_option("--teacher", flags.model,
                                             "learn this model's predictions, KL(teacher || model) of every token "
                                             "that counts; of the same vocabulary")
                                 ->type_name("MODEL");
  add_teacher_loss_options(command, flags.how);
  for (const char* name : {"--temperature", "--kl-weight", "--target-weight"}) command.get_option(name)->needs(model);
}

std::unique_ptr<TeacherModel> open_teacher(const TeacherFlags& flags, const Session& session) {
  if (flags.model.empty()) return nullptr;
  auto teacher = std::make_unique<TeacherModel>();
  teacher->loaded = load_model(resolve_model(flags.model, builtin_files()));
  if (teacher->loaded.model.n_vocab != session.model.n_vocab)
    throw Error(flags.model, "expected a teacher with the model's " + std::to_string(session.model.n_vocab) +
                                 " tokens, found " + std::to_string(teacher->loaded.model.n_vocab));
  teacher->forward = std::make_unique<Forward>(*session.backend, teacher->loaded.model, teacher->loaded.weights, 0);
  Teacher how = flags.how;
  how.forward = teacher->forward.get();
  teacher->objective = std::make_unique<TeacherObjective>(how);
  return teacher;
}

json::Value teacher_json(const TeacherFlags& flags, const TeacherModel& teacher) {
  json::Value weights = json::Value::object();
  for (const auto& [file, hash] :
       hash_weight_files(*teacher.loaded.resolved.files, HashCache(HashCache::default_directory())))
    weights.set(file, hash);
  return json::Value::object()
      .set("model", teacher.loaded.model_hash)
      .set("weights", std::move(weights))
      .set("temperature", flags.how.temperature)
      .set("kl_weight", flags.how.weight)
      .set("target_weight", flags.how.target);
}

}  // namespace signalbox::tools
