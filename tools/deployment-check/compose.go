package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// What the shop cannot do without: the services that stay, and how many of each.
var wanted = map[string]int{
	"postgres": 1, "kafka": 1, "redis": 1, "simulator": 1,
	"command-api": 2, "engine": 2, "projections": 1, "query-api": 2, "relay": 1,
	"haproxy": 1, "kafka-ui": 1, "prometheus": 1, "grafana": 1, "jaeger": 1,
	"kurrentdb": 1,
}

// Loads a file of Compose with all its profiles, as `docker compose config` does, and looks at what the specification does not ask for.
func checkCompose(files []string) ([]string, error) {
	options, err := cli.NewProjectOptions(files,
		cli.WithProfiles([]string{"*"}),
		cli.WithOsEnv,
		cli.WithResolvedPaths(true),
		cli.WithName("jangbu"),
	)
	if err != nil {
		return nil, err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return nil, err
	}
	var wrong []string
	for _, name := range sorted(project.Services) {
		wrong = append(wrong, service(project, project.Services[name])...)
	}
	for name, replicas := range wanted {
		found, there := project.Services[name]
		if !there {
			wrong = append(wrong, fmt.Sprintf("there is no service %s", name))
		} else if found.GetScale() != replicas {
			wrong = append(wrong, fmt.Sprintf("of %s there are %d, not %d", name, found.GetScale(), replicas))
		}
	}
	wrong = append(wrong, secretsInPlain(files[0], project)...)
	sort.Strings(wrong)
	return wrong, nil
}

func service(project *types.Project, service types.ServiceConfig) []string {
	var wrong []string
	say := func(format string, values ...any) {
		wrong = append(wrong, fmt.Sprintf("service %s: %s", service.Name, fmt.Sprintf(format, values...)))
	}
	if service.Build == nil && !strings.Contains(service.Image, ":") {
		say("the image %q has no version", service.Image)
	}
	if strings.HasSuffix(service.Image, ":latest") {
		say("the image %q is another one tomorrow", service.Image)
	}
	for _, mount := range service.Volumes {
		if mount.Type != types.VolumeTypeBind {
			continue
		}
		if _, err := os.Stat(mount.Source); err != nil {
			say("mounts %s, which is not there", mount.Source)
		}
	}
	for other, condition := range service.DependsOn {
		awaited := project.Services[other]
		if condition.Condition == types.ServiceConditionHealthy && awaited.HealthCheck == nil && awaited.Build == nil {
			say("waits for the health of %s, which has no health check", other)
		}
		if condition.Condition == types.ServiceConditionCompletedSuccessfully && awaited.Restart != "no" {
			say("waits for the end of %s, which is started again", other)
		}
	}
	for _, port := range service.Ports {
		if port.HostIP == "" || port.HostIP == "0.0.0.0" {
			say("port %s is open to the network", port.Published)
		}
		if service.GetScale() > 1 && port.Published != "" {
			say("has several processes and one published port")
		}
	}
	if service.GetScale() > 1 && service.ContainerName != "" {
		say("has several processes and one name")
	}
	return wrong
}

// A password is the environment's: the file may name the variable and nothing else.
func secretsInPlain(file string, project *types.Project) []string {
	const mark = "of-the-check"
	for _, name := range sorted(project.Services) {
		for variable, value := range project.Services[name].Environment {
			secret := strings.Contains(variable, "PASSWORD") || strings.Contains(variable, "SECRET")
			if secret && value != nil && *value != "" && !strings.Contains(*value, mark) {
				return []string{fmt.Sprintf("%s: %s of %s is written in the file", filepath.Base(file), variable, name)}
			}
			if value != nil && strings.Contains(*value, "://") && strings.Contains(*value, ":") {
				user, _, found := strings.Cut((*value)[strings.Index(*value, "://")+3:], "@")
				if _, password, has := strings.Cut(user, ":"); found && has && !strings.Contains(password, mark) {
					return []string{fmt.Sprintf("%s: the password in %s of %s is written in the file", filepath.Base(file), variable, name)}
				}
			}
		}
	}
	return nil
}

func sorted[V any](of map[string]V) []string {
	names := make([]string, 0, len(of))
	for name := range of {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}
