"""What can go wrong while something runs: jobs, the machine, chat and merge."""

from __future__ import annotations

from lora_ui.errors.error import LoraUIError


class NoSuchJob(LoraUIError):
    message = "There is no run {id} here."
    cause = "It was deleted, or belongs to another home folder."
    fix = "`python -m lora_ui runs` lists what is here."


class IllegalMove(LoraUIError):
    message = "{id} is {state}; it cannot be {wanted}."
    cause = "Only a run that is {legal} can."
    fix = "Look at its page for what it is doing now."


class DiskFull(LoraUIError):
    message = "There is not enough space on the disk: {needed} needed, {free} free in {where}."
    cause = "A run saves its adapter, save points and prepared rows there."
    fix = "Free some space, or choose another home folder with --home."


class PortInUse(LoraUIError):
    message = "Port {port} is already in use."
    cause = "Another program, perhaps another LoRA UI, listens there."
    fix = "Open http://127.0.0.1:{port} to see, or choose another with --port."


class PublicWithoutPassword(LoraUIError):
    message = "Refusing to listen on {host} without a password."
    cause = "Anyone who can reach this machine could use it."
    fix = "Give a password file with --auth-file (one line user:password), or set LORA_UI_AUTH=user:password."


class HomeUnusable(LoraUIError):
    message = "The home folder {path} cannot be used."
    cause = "{detail}"
    fix = "Choose another with --home."


class SupervisorDidNotStart(LoraUIError):
    message = "The background process that runs jobs did not start."
    cause = "{detail}"
    fix = "Look at supervisor.txt in the home folder, or run `python -m lora_ui doctor`."


class WorkerDied(LoraUIError):
    message = "The process doing this work ended unexpectedly ({how})."
    cause = "{detail}"
    fix = "{kept} Look at the log first."


class KilledForMemory(LoraUIError):
    message = "The system ended this at step {step}, because memory ran out."
    cause = "The kernel kills the largest process when memory is full, and counted one more."
    fix = "{kept} Before that, close other programs; or start again with 4-bit, shorter rows (max_length) or fewer rows at once."


class KilledFromOutside(LoraUIError):
    message = "The process doing this work was ended from outside at step {step} ({signal})."
    cause = "A person, a program or the system sent it that signal. {detail}"
    fix = "{kept}"


class MachineRestarted(LoraUIError):
    message = "The computer restarted at step {step}."
    cause = "It was switched off, lost power or was restarted while this ran."
    fix = "{kept}"


class WorkerLost(LoraUIError):
    message = "The process doing this work is gone since step {step}."
    cause = "It ended while nothing watched it. {detail}"
    fix = "{kept}"


class EndedByForce(LoraUIError):
    message = "It did not stop when asked, so it was ended at step {step}."
    cause = "The process did not answer in time."
    fix = "{kept}"


class DatabaseDamaged(LoraUIError):
    message = "The list of runs in {path} is damaged."
    cause = "The file is not what was written: {detail}"
    fix = "Run `python -m lora_ui doctor`: it sets the file aside and finds the runs again from their folders, which are untouched."


class DatabaseTooNew(LoraUIError):
    message = "The list of runs in {path} was written by a newer LoRA UI."
    cause = "Its version is {theirs}; this program knows {ours}."
    fix = "Start the newer LoRA UI, or choose another home folder with --home. Nothing was changed."


class DatabaseUnusable(LoraUIError):
    message = "The list of runs in {path} cannot be used now."
    cause = "The system says: {detail}"
    fix = "See whether the disk is full or read-only; `python -m lora_ui doctor` looks for you."


class OutOfMemory(LoraUIError):
    message = "Out of memory on {device} at step {step}."
    cause = "{detail}"
    fix = "Start again with 4-bit, shorter rows (max_length) or fewer rows at once."


class MemoryFull(LoraUIError):
    message = "The memory of {device} is full."
    cause = "{detail}"
    fix = "End other programs that use it, or choose a smaller base model or 4-bit."


class LossDiverged(LoraUIError):
    message = "The loss stopped being a number at step {step}."
    cause = "The learning rate is probably too high. {kept}"
    fix = "Go on from there, which takes half the learning rate, or start again with half of it."


class Bug(LoraUIError):
    """An exception that no other class explains: ours to mend. The traceback is in the log."""

    message = "Something went wrong that this app does not know: {detail}"
    cause = "This is probably a mistake in LoRA UI."
    fix = "Copy the report from the log and send it with what you did."


class LibraryBroken(LoraUIError):
    message = "A library that this work needs cannot be loaded."
    cause = "{detail}"
    fix = "Install the versions of requirements.txt again; `python -m lora_ui doctor` names what is there."


class GpuUnusable(LoraUIError):
    message = "{device} cannot be used for training."
    cause = "{detail}"
    fix = "Update the NVIDIA driver, or install the torch build that fits it; `python -m lora_ui doctor` names both."


class OtherSettings(LoraUIError):
    message = "The save point {point} was made with other settings than this run has now."
    cause = "Going on from it would give neither the one result nor the other."
    fix = "Start a new run with these settings. The save point is kept."


class NothingTrained(LoraUIError):
    message = "{id} has no finished adapter."
    cause = "It is {state}."
    fix = "Wait until it has finished, or resume it."


class SavePointUnusable(LoraUIError):
    message = "The save point of step {step} cannot be used."
    cause = "What is wrong: {problem}."
    fix = "Choose another save point, or the adapter that was kept."


class OutputNotEmpty(LoraUIError):
    message = "{path} is not empty."
    cause = "Nothing of yours is overwritten."
    fix = "Name a new or empty folder."


class ChatUnavailable(LoraUIError):
    message = "The chat does not answer."
    cause = "{detail}"
    fix = "Ask again: the model is loaded once more if it has to be."


class ChatUnloaded(LoraUIError):
    message = "The chat's model was unloaded."
    cause = "A run needed this machine, or nobody had written for a while."
    fix = "Ask again: it is loaded once more, or waits its turn."


class UnreadableAuthFile(LoraUIError):
    message = "The passwords in {name} cannot be read."
    cause = "{detail}"
    fix = "Write one user:password per line."


class NotOnThisDevice(LoraUIError):
    message = "{what} does not work on {device}."
    cause = "The library behind it supports other devices only."
    fix = "Switch it off, or train on a machine with an NVIDIA GPU or on the CPU."


class NotMergedYet(LoraUIError):
    message = "{id} has not been merged yet."
    cause = "Only a merged model can be published as a whole."
    fix = "Merge it first, or publish the adapter alone."


class ChatModelUnknown(LoraUIError):
    message = "This chat has no model called {name}."
    cause = "It knows: {known}."
    fix = "Add the run's adapter first."


class PromptTooLong(LoraUIError):
    message = "The conversation is {tokens} tokens long; this model reads at most {limit}."
    cause = "Everything said so far is read again for every answer."
    fix = "Start a new chat, or shorten what you wrote."


class ChatRequestRefused(LoraUIError):
    message = "The chat cannot take this request."
    cause = "{detail}"
    fix = "Send it as the OpenAI chat API describes."


class MergeFailed(LoraUIError):
    message = "The merged model is not right, so it was not kept."
    cause = "{detail}"
    fix = "Merge again in float32. The adapter itself is unharmed."


class DryRunFailed(LoraUIError):
    message = "Memory could not be checked exactly."
    cause = "{detail}"
    fix = "Rely on the estimate, or try again when this machine has less to do."
