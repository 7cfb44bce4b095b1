// What inspect --json tells of a model, for others who tell it too.
#pragma once
#include "base/json.h"
#include "base/namespaces.h"
#include "engine/session.h"

namespace signalbox::tools {

json::Value model_facts_json(Session& session);

}  // namespace signalbox::tools
