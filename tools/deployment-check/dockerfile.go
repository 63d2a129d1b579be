package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Images that nobody asks for here: what a Dockerfile is checked for does not depend on them.
type anyImage struct{}

func (anyImage) ResolveImageConfig(_ context.Context, ref string, _ sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	config, err := json.Marshal(ocispecs.Image{
		Platform: ocispecs.Platform{OS: "linux", Architecture: "amd64"},
		Config:   ocispecs.ImageConfig{Env: []string{"PATH=/usr/bin:/bin"}},
	})
	return ref, digest.FromBytes(config), config, err
}

// Parses a Dockerfile, turns it into the steps that BuildKit would run, and takes each of its linter's warnings for a mistake.
func checkDockerfile(files []string) ([]string, error) {
	text, err := os.ReadFile(files[0])
	if err != nil {
		return nil, err
	}
	var wrong []string
	warn := func(rule, _, _, message string, location []parser.Range) {
		line := 0
		if len(location) > 0 {
			line = location[0].Start.Line
		}
		wrong = append(wrong, fmt.Sprintf("line %d: %s: %s", line, rule, message))
	}
	platform := ocispecs.Platform{OS: "linux", Architecture: "amd64"}
	options := dockerfile2llb.ConvertOpt{
		MetaResolver:   anyImage{},
		TargetPlatform: &platform,
		AllStages:      true,
		Warn:           warn,
	}
	state, image, _, _, err := dockerfile2llb.Dockerfile2LLB(context.Background(), text, options)
	if err != nil {
		return wrong, err
	}
	if definition, err := state.Marshal(context.Background()); err != nil {
		return wrong, err
	} else if len(definition.Def) < 2 {
		wrong = append(wrong, "it builds nothing")
	}
	if user := image.Config.User; user == "" || user == "root" || strings.HasPrefix(user, "0") {
		wrong = append(wrong, "the image runs as root")
	}
	if image.Config.Healthcheck == nil || len(image.Config.Healthcheck.Test) == 0 {
		wrong = append(wrong, "the image has no HEALTHCHECK")
	}
	stages, err := stagesOf(text)
	if err != nil {
		return wrong, err
	}
	for _, image := range imagesOf(stages) {
		if !strings.Contains(image, ":") || strings.HasSuffix(image, ":latest") {
			wrong = append(wrong, fmt.Sprintf("the image %q has no version, and no stage is called so", image))
		}
	}
	return wrong, nil
}

// The images that are not made here. A name that no stage has is an image's, as BuildKit takes it.
func imagesOf(stages []instructions.Stage) []string {
	var images []string
	for _, stage := range stages {
		images = append(images, stage.BaseName)
		for _, command := range stage.Commands {
			if copy, is := command.(*instructions.CopyCommand); is && copy.From != "" {
				images = append(images, copy.From)
			}
		}
	}
	return slices.DeleteFunc(images, func(name string) bool {
		return slices.ContainsFunc(stages, func(stage instructions.Stage) bool { return strings.EqualFold(stage.Name, name) })
	})
}

func stagesOf(text []byte) ([]instructions.Stage, error) {
	parsed, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	stages, _, err := instructions.Parse(parsed.AST, linter.New(&linter.Config{}))
	return stages, err
}
