"""What can go wrong with base models, adapters and the Hugging Face Hub."""

from __future__ import annotations

from lora_ui.errors.error import LoraUIError


class ModelNotFound(LoraUIError):
    message = "There is no model {name} on the Hugging Face Hub."
    cause = "The name is misspelt, or the model is private and you are not signed in."
    fix = "Copy the name from the model's page (owner/name), or give a token that may read it."


class ModelFolderWithoutWeights(LoraUIError):
    message = "The folder {name} holds no model."
    cause = "{detail}"
    fix = "Choose a folder with config.json and .safetensors files, or a .gguf file."


class GatedModel(LoraUIError):
    message = "{name} is gated: its owner asks you to accept a licence first."
    cause = "The Hub refused the download for this token."
    fix = "Open the model's page, accept the licence, then give a token of that account; or use an open model."


class HubOffline(LoraUIError):
    message = "The Hugging Face Hub cannot be reached."
    cause = "{detail}"
    fix = "Models on this machine still work: use starter or a local folder, or try again when you are online."


class HubRefused(LoraUIError):
    message = "The Hugging Face Hub refused: {detail}"
    cause = "The token is missing, expired, or may not do this."
    fix = "Make a token with write access in your Hub settings and give it again."


class HubUnwell(LoraUIError):
    message = "The Hugging Face Hub answered with an error ({status})."
    cause = "It is busy or has a problem of its own; nothing is wrong here."
    fix = "Try again in a few minutes."


class TokenRejected(LoraUIError):
    message = "The Hugging Face Hub does not accept this token."
    cause = "It is misspelt, expired or revoked."
    fix = "Copy the token again from your Hub settings."


class TokenMissing(LoraUIError):
    message = "This needs a Hugging Face token."
    cause = "No token was given, or it was lost when the machine restarted: tokens are never saved."
    fix = "Give the token again (the page's token field, HF_TOKEN, or `hf auth login`) and resume."


class RepoExists(LoraUIError):
    message = "{repo} exists already and was not made from this run."
    cause = "Publishing would overwrite somebody's files."
    fix = "Choose another name."


class RepoVisibility(LoraUIError):
    message = "{repo} exists already and is {is_now}, which is not what you asked for."
    cause = "Who can see a repository is changed by its owner alone."
    fix = "Change its visibility in its settings on the Hub, or choose another name."


class PublishedDiffers(LoraUIError):
    message = "What arrived in {repo} is not what was sent."
    cause = "{detail}"
    fix = "Publish again; files that arrived whole are not sent twice."


class InvalidRepoName(LoraUIError):
    message = "{repo} is not a name the Hub accepts."
    cause = "A name is owner/name, of letters, digits, -, _ and . (at most 96 characters each)."
    fix = "Change the name."


class UnsupportedModel(LoraUIError):
    message = "{name} cannot be trained here."
    cause = "{detail}"
    fix = "Choose a text model from the list."


class StarterUnavailable(LoraUIError):
    message = "The starter model could not be fetched."
    cause = "{detail}"
    fix = "It comes from the Hugging Face Hub or, without it, from the Python package index: make one of them reachable once."


class InvalidModelName(LoraUIError):
    message = "{name} cannot be the name of a model."
    cause = "A model is owner/name on the Hub, a folder, a .gguf file, or starter."
    fix = "Copy the name from the model's page, or choose one from the list."


class ModelPathNotFound(LoraUIError):
    message = "There is nothing at {name}."
    cause = "It looks like a path on this machine, but no folder or file is there."
    fix = "Check the spelling, or give a model of the Hub as owner/name."


class RevisionNotFound(LoraUIError):
    message = "{name} has no revision {revision}."
    cause = "It is neither a branch, a tag nor a commit there."
    fix = "Leave the revision empty for the newest, or copy it from the page's file list."


class OnlyPickleWeights(LoraUIError):
    message = "{name} has its weights only in an unsafe format ({files})."
    cause = "Such files can run other people's code when they are opened, so they are never loaded here."
    fix = "Choose a version of this model with .safetensors files, or a .gguf file."


class NoNumbers(LoraUIError):
    """The loss is no number before the first correction, so it is not the learning rate."""

    message = "The base model gives no numbers for these rows, before anything is learned."
    cause = "Its files are damaged, or they hold values that the number format of this run cannot."
    fix = "Choose another base model, or delete this one and have it downloaded again."


class ModelFileDamaged(LoraUIError):
    message = "The files of {name} are damaged."
    cause = "{detail}"
    fix = "Delete its folder and start again, which downloads it anew, or give a copy that is whole."


class OnlyAnAdapter(LoraUIError):
    message = "{name} is an adapter, not a whole model."
    cause = "It was trained on top of {base_model}."
    fix = "Choose {base_model} as the base model."


class NotATextModel(LoraUIError):
    message = "{name} does not write text: it is a {architecture}."
    cause = "Only models that continue text (causal language models) can be taught here."
    fix = "Choose a text-generation model."


class AdapterUnsuitable(LoraUIError):
    message = "The adapter of {name} does not fit this base model."
    cause = "{detail}"
    fix = "Open a chat from the run's own page, which loads the base model it was trained on."
