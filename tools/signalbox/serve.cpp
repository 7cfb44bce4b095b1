// signalbox serve: a model over HTTP.
#include <CLI/CLI.hpp>
#include <algorithm>

#include "base/text.h"
#include "loaders/model/load.h"
#include "tools/builtin/builtin_files.h"
#include "tools/serve/server.h"
#include "tools/signalbox/arguments.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/inspect.h"
#include "tools/signalbox/open.h"

namespace signalbox::tools {

namespace {

// The default template of a model, as its files have it; empty: none.
std::string template_source(const ModelFiles& files) {
  if (files.has("chat_template.jinja")) return files.read("chat_template.jinja");
  for (const char* name : {"tokenizer_config.json", "chat_template.json"}) {
    if (!files.has(name)) continue;
    const json::Value config = files.read_json(name);
    const json::Value* found = config.find("chat_template");
    if (!found || found->is_null()) continue;
    if (found->is_string()) return found->string();
    for (const json::Value& one : found->items())
      if (const json::Value* of = one.find("name"); of && of->is_string() && of->string() == "default")
        return one.find("template")->string();
  }
  return "";
}

std::string tokenizer_class(const ModelFiles& files) {
  if (files.has("tokenizer_config.json")) {
    const json::Value config = files.read_json("tokenizer_config.json");
    if (const json::Value* name = config.find("tokenizer_class"); name && name->is_string()) return name->string();
  }
  return "PreTrainedTokenizerFast";
}

ModelDescription describe_served(const CommonOptions& options, Session& session) {
  const ResolvedModel resolved = resolve_model(options.model, builtin_files());
  ModelDescription out;
  out.template_source = template_source(*resolved.files);
  out.tokenizer_class = tokenizer_class(*resolved.files);
  out.facts = model_facts_json(session);
  if (!options.ignore_generation_config) out.refused = joined(unapplied_generation(*resolved.files));
  return out;
}

}  // namespace

int serve_command(int argc, char** argv) {
  CLI::App app(
      "Answers over HTTP on this machine: completions and chat as OpenAI's API has them, with probes and edits.",
      "signalbox serve");
  app.footer(
      "Examples:\n  signalbox serve builtin --port 8080\n"
      "  signalbox serve MODEL --socket ~/run/signalbox --json --exit-with-parent");
  CommonOptions options;
  ServerOptions server;
  std::string key_file, unknown = "refuse";
  app.add_option("MODEL", options.model, "a directory, org/name[@revision] in the Hugging Face cache, or builtin")
      ->required();
  add_experiment_options(app, options);
  for (const char* flag : {"--seed", "--special"}) app.remove_option(app.get_option(flag));  // requests say these
  add_unmerged_option(app, options);
  add_generation_config_option(app, options);
  auto* host = app.add_option("--host", server.transport.host,
                              "address to listen at; others than this machine's own need --api-key-file")
                   ->capture_default_str()
                   ->group("Server");
  auto* port = app.add_option("--port", server.transport.port, "port, 0 = a free one")
                   ->check(in_range(0, 65535))
                   ->capture_default_str()
                   ->group("Server");
  app.add_option("--socket", server.transport.socket, "a unix socket instead, that only this user can reach")
      ->type_name("PATH")
      ->excludes(host)
      ->excludes(port)
      ->group("Server");
  app.add_option("--api-key-file", key_file, "requests need one of these keys, one a line")
      ->type_name("FILE")
      ->group("Server");
  app.add_option("--assets", server.assets, "files of this directory may be named by edits as asset:NAME")
      ->type_name("DIR")
      ->group("Server");
  app.add_option("--served-name", server.served_name, "the model's name in answers (default: its directory's name)")
      ->type_name("NAME")
      ->group("Server");
  app.add_option("--allowed-host", server.service.access.hosts, "a Host beside localhost (several times)")
      ->type_name("NAME")
      ->allow_extra_args(false)
      ->group("Server");
  app.add_option("--allowed-origin", server.service.access.origins, "an Origin beside the server's own (several times)")
      ->type_name("ORIGIN")
      ->allow_extra_args(false)
      ->group("Server");
  app.add_option("--max-queue", server.limits.max_queue, "requests that may wait; more get status 429")
      ->check(in_range(0, 1 << 20))
      ->capture_default_str()
      ->group("Server");
  app.add_option("--max-connections", server.transport.max_connections, "connections at once; more get status 503")
      ->check(in_range(1, 1 << 16))
      ->capture_default_str()
      ->group("Server");
  app.add_option("--max-seconds", server.limits.max_seconds, "a request may take so long")
      ->check(in_range(0.001, 1e9))
      ->capture_default_str()
      ->group("Server");
  app.add_option("--kv-positions", server.limits.kv_positions,
                 "positions to keep keys and values of, all requests together (default: --batch texts of full length, "
                 "or a quarter of the memory)")
      ->check(in_range(16, 1 << 30))
      ->type_name("N")
      ->group("Server");
  app.add_option("--unknown-fields", unknown, "fields of requests that are not known: refuse | warn (and run)")
      ->check(one_of({"refuse", "warn"}))
      ->capture_default_str()
      ->group("Server");
  app.add_flag("--log-prompts", server.service.log_prompts, "the log has the bodies of requests too, prompts and all")
      ->group("Server");
  app.add_flag("--exit-with-parent", server.exit_with_parent, "end with the process that started this one")
      ->group("Server");
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;

  if (options.quiet && server.service.log_prompts)
    throw UsageError("--log-prompts", "expected no --quiet beside it, which leaves no log");
  server.model = options.model;
  server.json = options.json;
  server.quiet = options.quiet;
  server.service.log = !options.quiet;
  server.service.refuse_unknown = unknown == "refuse";
  if (!key_file.empty()) server.service.keys = KeyRing::load(key_file);
  for (std::string& name : server.service.access.hosts) name = ascii_lower(name);
  run_server(
      server, [&] { return open_session(options); },
      [&](Session& session) { return describe_served(options, session); });
  return 0;
}

}  // namespace signalbox::tools
