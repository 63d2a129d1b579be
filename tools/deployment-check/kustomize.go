package main

import (
	"fmt"
	"os"
	"sort"
	"strings"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// Secrets are made by whoever runs the shop. These are the names that docs/deployment.md tells them.
var secrets = map[string]bool{
	"migrate": true, "command-api": true, "engine": true, "projections": true, "query-api": true, "relay": true,
	"postgres": true, "redis": true, "entry-certificate": true,
}

type object map[string]any

// Builds a directory as `kubectl kustomize` does, and writes what comes out. Then looks for names that nothing has, labels that select
// nothing, ports that are not there, and processes that may do more than they need.
func checkKustomization(directories []string) ([]string, error) {
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), directories[0])
	if err != nil {
		return nil, err
	}
	text, err := built.AsYaml()
	if err != nil {
		return nil, err
	}
	if _, err := os.Stdout.Write(text); err != nil {
		return nil, err
	}
	var all cluster
	for _, resource := range built.Resources() {
		text, err := resource.AsYAML()
		if err != nil {
			return nil, err
		}
		var one object
		if err := yaml.Unmarshal(text, &one); err != nil {
			return nil, err
		}
		all.objects = append(all.objects, one)
	}
	all.check()
	sort.Strings(all.wrong)
	return all.wrong, nil
}

type cluster struct {
	objects []object
	wrong   []string
}

func (c *cluster) say(of object, format string, values ...any) {
	c.wrong = append(c.wrong, fmt.Sprintf("%s %s: %s", of["kind"], name(of), fmt.Sprintf(format, values...)))
}

func (c *cluster) check() {
	seen := map[string]bool{}
	for _, each := range c.objects {
		key := fmt.Sprint(each["kind"], " ", name(each))
		if seen[key] {
			c.say(each, "is there twice")
		}
		seen[key] = true
		if each["kind"] != "Namespace" && text(each, "metadata", "namespace") != "jangbu" {
			c.say(each, "is in another namespace")
		}
		if template(each) != nil {
			c.workload(each)
		}
		switch each["kind"] {
		case "Service":
			c.service(each)
		case "PodDisruptionBudget":
			c.budget(each)
		case "NetworkPolicy":
			c.policy(each)
		}
	}
}

func (c *cluster) workload(of object) {
	pod := template(of)
	labels := get(pod, "metadata", "labels")
	if of["kind"] != "Job" && !selects(get(of, "spec", "selector"), labels) {
		c.say(of, "does not select its own pods")
	}
	spec := get(pod, "spec")
	if get(spec, "securityContext", "runAsNonRoot") != true {
		c.say(of, "may run as root")
	}
	if get(spec, "automountServiceAccountToken") != false {
		c.say(of, "has a token of the cluster that it does not need")
	}
	volumes := map[string]bool{}
	for _, volume := range list(spec, "volumes") {
		volumes[itsName(volume)] = true
		c.has(of, "ConfigMap", text(volume, "configMap", "name"))
		c.has(of, "Secret", text(volume, "secret", "secretName"))
	}
	for _, claim := range list(of, "spec", "volumeClaimTemplates") {
		volumes[text(claim, "metadata", "name")] = true
	}
	for _, container := range list(spec, "containers") {
		c.container(of, container, volumes)
	}
}

func (c *cluster) container(of object, container any, volumes map[string]bool) {
	image := text(container, "image")
	if !strings.Contains(image, ":") || strings.HasSuffix(image, ":latest") {
		c.say(of, "the image %q has no version", image)
	}
	context := get(container, "securityContext")
	if get(context, "allowPrivilegeEscalation") != false || fmt.Sprint(get(context, "capabilities", "drop")) != "[ALL]" {
		c.say(of, "may do more than it needs")
	}
	if strings.Contains(image, "jangbu") && get(context, "readOnlyRootFilesystem") != true {
		c.say(of, "may write to its own image")
	}
	if get(container, "resources", "limits", "memory") == nil || get(container, "resources", "requests", "cpu") == nil {
		c.say(of, "does not say what it takes")
	}
	if of["kind"] != "Job" && get(container, "readinessProbe") == nil {
		c.say(of, "nobody asks whether it is ready")
	}
	for _, mount := range list(container, "volumeMounts") {
		if !volumes[itsName(mount)] {
			c.say(of, "mounts %s, which is no volume", itsName(mount))
		}
	}
	for _, from := range list(container, "envFrom") {
		c.has(of, "ConfigMap", text(from, "configMapRef", "name"))
		c.has(of, "Secret", text(from, "secretRef", "name"))
	}
	seen := map[string]bool{}
	for _, variable := range list(container, "env") {
		if seen[itsName(variable)] {
			c.say(of, "sets %s twice", itsName(variable))
		}
		seen[itsName(variable)] = true
		c.has(of, "ConfigMap", text(variable, "valueFrom", "configMapKeyRef", "name"))
		c.has(of, "Secret", text(variable, "valueFrom", "secretKeyRef", "name"))
	}
	for _, probe := range []string{"startupProbe", "livenessProbe", "readinessProbe"} {
		for _, kind := range []string{"httpGet", "tcpSocket"} {
			if port := get(container, probe, kind, "port"); port != nil && !hasPort(container, port) {
				c.say(of, "%s asks port %v, which is not there", probe, port)
			}
		}
	}
}

func (c *cluster) has(of object, kind, wanted string) {
	if wanted == "" || kind == "Secret" && secrets[wanted] {
		return
	}
	for _, each := range c.objects {
		if each["kind"] == kind && name(each) == wanted {
			return
		}
	}
	c.say(of, "names the %s %s, which is not there", kind, wanted)
}

func (c *cluster) service(of object) {
	pods := c.pods(object{"matchLabels": get(of, "spec", "selector")})
	if len(pods) == 0 {
		c.say(of, "selects nothing")
	}
	for _, port := range list(of, "spec", "ports") {
		for _, pod := range pods {
			found := false
			for _, container := range list(get(template(pod), "spec"), "containers") {
				found = found || hasPort(container, get(port, "targetPort"))
			}
			if !found {
				c.say(of, "leads to port %v of %s, which is not there", get(port, "targetPort"), name(pod))
			}
		}
	}
}

func (c *cluster) budget(of object) {
	pods := c.pods(get(of, "spec", "selector"))
	if len(pods) != 1 {
		c.say(of, "selects the pods of %d workloads", len(pods))
	}
	for _, pod := range pods {
		if replicas, _ := get(pod, "spec", "replicas").(float64); replicas < 2 {
			c.say(of, "of one process none may be missing, so its machine could never be emptied")
		}
	}
}

func (c *cluster) policy(of object) {
	if len(c.pods(get(of, "spec", "podSelector"))) == 0 {
		c.say(of, "selects nothing")
	}
	for _, rule := range list(of, "spec", "ingress") {
		for _, from := range list(rule, "from") {
			if selector := get(from, "podSelector"); selector != nil && len(c.pods(selector)) == 0 {
				c.say(of, "lets in pods that are not there")
			}
		}
		for _, port := range list(rule, "ports") {
			found := false
			for _, pod := range c.pods(get(of, "spec", "podSelector")) {
				for _, container := range list(get(template(pod), "spec"), "containers") {
					found = found || hasPort(container, get(port, "port"))
				}
			}
			if !found {
				c.say(of, "opens port %v, which is not there", get(port, "port"))
			}
		}
	}
}

// The workloads whose pods a selector selects.
func (c *cluster) pods(selector any) []object {
	var found []object
	for _, each := range c.objects {
		if pod := template(each); pod != nil && selects(selector, get(pod, "metadata", "labels")) {
			found = append(found, each)
		}
	}
	return found
}

func selects(selector, labels any) bool {
	if wanted, some := get(selector, "matchLabels").(map[string]any); some {
		for key, value := range wanted {
			if text(labels, key) != value {
				return false
			}
		}
	}
	for _, expression := range list(selector, "matchExpressions") {
		if get(expression, "operator") != "In" {
			return false
		}
		found := false
		for _, value := range list(expression, "values") {
			found = found || text(labels, text(expression, "key")) == value
		}
		if !found {
			return false
		}
	}
	return true
}

func hasPort(container, wanted any) bool {
	for _, port := range list(container, "ports") {
		if get(port, "name") == wanted || get(port, "containerPort") == wanted {
			return true
		}
	}
	return false
}

func template(of object) any {
	return get(of, "spec", "template")
}

func name(of object) string {
	return text(of, "metadata", "name")
}

func itsName(of any) string {
	return text(of, "name")
}

func get(of any, path ...string) any {
	for _, key := range path {
		switch fields := of.(type) {
		case map[string]any:
			of = fields[key]
		case object:
			of = fields[key]
		default:
			return nil
		}
	}
	return of
}

func list(of any, path ...string) []any {
	items, _ := get(of, path...).([]any)
	return items
}

func text(of any, path ...string) string {
	value, _ := get(of, path...).(string)
	return value
}
