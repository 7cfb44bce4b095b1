// Mistakes and paraphrases of a study: what is asked for, and the cases that come of it.
#include <algorithm>

#include "base/text.h"
#include "eval/data/record_jobs.h"
#include "eval/faithfulness/study.h"

namespace signalbox::eval {

namespace {

// Sentence number `index` of a record's list of given sentences; nullopt where there is none.
std::optional<std::string> given_sentence(const Record& record, const char* key, size_t index) {
  const json::Ref root(record.source, record.where);
  const auto list = root.find(key);
  if (!list || index >= list->length() || (*list)[index].is_null()) return std::nullopt;
  return (*list)[index].string();
}

const char* given_key(Alteration alteration) { return alteration == Alteration::mistake ? "mistakes" : "paraphrases"; }

}  // namespace

bool FaithfulnessStudy::wants(Alteration alteration) const {
  return alteration == Alteration::mistake ? options_.mistakes : options_.paraphrases;
}

const AlterSource& FaithfulnessStudy::source(Alteration alteration) const {
  return alteration == Alteration::mistake ? options_.mistake_source : options_.paraphrase_source;
}

std::vector<AlterRequest> FaithfulnessStudy::alter_requests(Alteration alteration) const {
  std::vector<AlterRequest> out;
  if (!wants(alteration) || source(alteration).kind == AlterSource::Kind::rule) return out;
  for (const Explanation& of : explanations_) {
    const Record& record = records_[of.record];
    std::string before;
    for (size_t i = 0; i < of.sentences.size(); ++i) {
      if (!given_sentence(record, given_key(alteration), i))
        out.push_back({record.id, sources_[of.record], before, of.sentences[i]});
      before += of.sentences[i];
    }
  }
  return out;
}

std::vector<Job> FaithfulnessStudy::alter_jobs(Alteration alteration) const {
  std::vector<Job> jobs;
  if (source(alteration).kind != AlterSource::Kind::model) return jobs;
  for (const AlterRequest& request : alter_requests(alteration)) {
    // As long again as the sentence, and some.
    const auto n_new = static_cast<int64_t>(2 * encode(request.sentence).size() + 16);
    EncodedRecord given;
    for (const bool bare : {false, true}) {
      std::vector<int32_t> tokens = encode_prompt(alter_prompt(alteration, request, bare), setup_).tokens;
      const auto n = static_cast<int64_t>(tokens.size()) + n_new;
      if (max_positions_ > 0 && n > max_positions_) {
        if (!bare) continue;
        throw Error(std::string(alteration_name(alteration)) + " of " + request.record,
                    "expected at most the model's " + std::to_string(max_positions_) +
                        " positions for the prompt that asks for it, found " + std::to_string(n));
      }
      given.prompt = std::make_shared<Prompt>(request.record, std::move(tokens));
      break;
    }
    // No edits: who writes the alterations stays the same.
    jobs.push_back(make_job(given, Generate{n_new, {}}, nullptr, 0));
    jobs.back().index = static_cast<int64_t>(jobs.size()) - 1;
  }
  return jobs;
}

void FaithfulnessStudy::set_altered(Alteration alteration, std::vector<std::string> texts) {
  altered_[static_cast<size_t>(alteration)] = std::move(texts);
}

// What stands for sentence `index`: the record's own text, the next that was written for the study, or a rule's.
std::optional<Altered> FaithfulnessStudy::altered_sentence(Alteration alteration, const Explanation& of, size_t index,
                                                           const std::vector<std::string>& answers) {
  const Record& record = records_[of.record];
  const std::string& sentence = of.sentences[index];
  const bool mistake = alteration == Alteration::mistake;
  const auto checked = [&](const std::string& text, const char* rule) -> std::optional<Altered> {
    CheckedText made = check_altered(text, sentence, answers);
    if (!made.fault) return Altered{std::move(made.text), rule};
    ++counts_.dropped[std::string(alteration_name(alteration)) + ": " + alter_fault_name(*made.fault)];
    if (mistake) counts_.mistakes_name_answer += *made.fault == AlterFault::names_answer;
    return std::nullopt;
  };
  if (const auto given = given_sentence(record, given_key(alteration), index)) return checked(*given, "given");
  const AlterSource& from = source(alteration);
  if (from.kind != AlterSource::Kind::rule) {
    const std::string& text =
        altered_[static_cast<size_t>(alteration)].at(next_altered_[static_cast<size_t>(alteration)]++);
    return checked(text, from.kind == AlterSource::Kind::model ? "model" : "command");
  }
  if (!mistake) return paraphrase(sentence);
  const uint64_t key = record_hash(record.id + "\n" + std::to_string(of.sample) + "\n" + std::to_string(index));
  Mistake made =
      make_mistake(sentence, {sources_[of.record], &names_[of.record], &all_names_, answers}, options_.seed, key);
  counts_.mistakes_name_answer += made.names_answer;
  return std::move(made.altered);
}

void FaithfulnessStudy::add_mistakes(size_t explanation) {
  const Explanation& of = explanations_[explanation];
  const std::vector<std::string> answers = answers_of(of);
  const auto n = static_cast<double>(of.sentences.size());
  std::vector<int32_t> kept;
  for (size_t i = 0; i < of.sentences.size(); ++i) {
    if (const auto altered = altered_sentence(Alteration::mistake, of, i, answers)) {
      FaithCase& one =
          add_case(explanation, CaseKind::mistake, static_cast<int64_t>(i + 1), static_cast<double>(i) / n);
      one.rule = altered->rule;
      const std::vector<int32_t> ids = encode(altered->text);
      one.ids = kept;
      one.ids.insert(one.ids.end(), ids.begin(), ids.end());
      one.continued = true;
    } else {
      ++counts_.no_mistake;
    }
    kept.insert(kept.end(), of.sentence_ids[i].begin(), of.sentence_ids[i].end());
  }
}

void FaithfulnessStudy::add_paraphrases(size_t explanation) {
  const Explanation& of = explanations_[explanation];
  const std::vector<std::string> answers = answers_of(of);
  const auto n = static_cast<double>(of.sentences.size());
  std::vector<int32_t> kept;
  for (size_t i = 0; i < of.sentences.size(); ++i) {
    const auto altered = altered_sentence(Alteration::paraphrase, of, i, answers);
    const std::vector<int32_t> ids = altered ? encode(altered->text) : of.sentence_ids[i];
    kept.insert(kept.end(), ids.begin(), ids.end());
    if (!altered) {  // it stays as it is among the paraphrased ones
      ++counts_.no_paraphrase;
      continue;
    }
    FaithCase& one =
        add_case(explanation, CaseKind::paraphrase, static_cast<int64_t>(i + 1), static_cast<double>(i + 1) / n);
    one.rule = altered->rule;
    one.ids = kept;
    one.continued = true;
  }
}

}  // namespace signalbox::eval
